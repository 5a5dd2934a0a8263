"""Exploration: now and then another candidate than the best is chosen, with a known probability.

Without it a candidate that is never chosen is never judged, and no policy but the one that ran can be
evaluated from the log (``models.learning.off_policy``).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

# Probabilities below this are none: a draw could not be told from rounding.
NEGLIGIBLE: Final = 1e-9
# Of a record that takes no unknown ones: each of those is an error of hundreds of bytes.
MAX_FIELDS: Final = 100


class Exploration(BaseModel):
    """How choices are drawn.

    off: the best. epsilon: another with probability epsilon, those with few votes more often. softmax:
    by the scores over a temperature, every permitted candidate with a floor; off with ``min_quality``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, given: Any) -> Any:
        """A field that is null counts as one that is not there."""
        if isinstance(given, dict):
            if len(given) > MAX_FIELDS:
                raise ValueError(f"over {MAX_FIELDS} fields")
            return {name: value for name, value in given.items() if value is not None}
        return given

    kind: Literal["off", "epsilon", "softmax"]
    epsilon: Annotated[float, Field(ge=0, le=1, description="epsilon: how often one is drawn.")] = (
        0.05
    )
    temperature: Annotated[
        float, Field(gt=0, le=10, description="softmax: in units of the score.")
    ] = 0.02
    floor: Annotated[
        float, Field(ge=0, le=1, description="softmax: the least probability of each.")
    ] = 0.002
    max_extra_usd: Annotated[
        float | None,
        Field(ge=0, description="Nobody predicted to cost this much more than the best is drawn."),
    ] = None


def probabilities(
    scores: np.ndarray,
    cost: np.ndarray,
    exploration: Exploration | None,
    votes: np.ndarray | None = None,
) -> np.ndarray:
    """(L,) with which each candidate is chosen; they sum to 1.

    scores: (L,), -inf for those not permitted. cost: (L,) USD. votes: (L,) how many each has had.
    """
    best = int(np.argmax(scores))
    chances = np.zeros(len(scores))
    chances[best] = 1.0
    if exploration is None or exploration.kind == "off":
        return chances
    drawn = np.isfinite(scores)
    if exploration.max_extra_usd is not None:
        drawn &= cost <= cost[best] + exploration.max_extra_usd
    if exploration.kind == "epsilon":
        need = drawn / (1.0 + (np.zeros(len(scores)) if votes is None else votes))
        chances = (1.0 - exploration.epsilon) * chances + exploration.epsilon * need / need.sum()
    else:
        raised = np.where(drawn, np.exp((scores - scores[best]) / exploration.temperature), 0.0)
        floor = min(exploration.floor, 1.0 / drawn.sum())
        chances = (1.0 - floor * drawn.sum()) * raised / raised.sum() + floor * drawn
    chances[chances < NEGLIGIBLE] = 0.0
    return np.asarray(chances / chances.sum())


def draw(chances: np.ndarray, number: float) -> int:
    """The candidate that a number from [0, 1) picks."""
    place = int(np.searchsorted(np.cumsum(chances), number, side="right"))
    return min(place, int(np.flatnonzero(chances)[-1]))  # rounding must not go beyond the last
