"""What a decision goes by: estimates per candidate, defaults, the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

# exp() beyond this only says "far too late".
MAX_EXPONENT: Final = 20.0
Finite = Annotated[float, Field(allow_inf_nan=False, ge=0)]
WillingnessToPay = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DecisionDefaults(BaseModel):
    """What a release decides with unless a request says otherwise.

    willingness_to_pay: λ, USD per unit of quality. alpha: weight of the uncertainty bonus.
    beta: weight of the latency penalty; gamma: its steepness (1/s); time_limit: τ (s);
    time_share: ξ, the share of τ at which the penalty reaches beta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    willingness_to_pay: WillingnessToPay
    alpha: Finite = 0.01
    beta: Finite = 0.1
    gamma: Finite = 0.5
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    time_share: Annotated[float, Field(gt=0, lt=1)] = 0.6


@dataclass(frozen=True)
class Estimates:
    """What is predicted of every query and candidate; each (n, L) float64.

    quality in [0, 1]; cost in USD; time in seconds; uncertainty = sqrt(eᵀ A_l⁻¹ e); feedback =
    κ_l · f_l(e), what votes add (``models.learning.feedback_network``), 0 without a policy state.
    """

    quality: np.ndarray
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    cost: np.ndarray
    time: np.ndarray
    uncertainty: np.ndarray
    feedback: np.ndarray

    def __getitem__(self, rows: Any) -> Estimates:
        return Estimates(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Terms:
    """The score's terms, each (n, L); ``total`` is their sum."""

    quality: np.ndarray
    cost: np.ndarray
    uncertainty: np.ndarray
    latency: np.ndarray
    feedback: np.ndarray
    total: np.ndarray


def score(
    estimates: Estimates, defaults: DecisionDefaults, willingness_to_pay: float | None = None
) -> Terms:
    """Every term of the score, for (n, L) estimates."""
    wtp = defaults.willingness_to_pay if willingness_to_pay is None else willingness_to_pay
    late = defaults.gamma * (estimates.time - defaults.time_share * defaults.time_limit)
    cost = -estimates.cost / wtp
    uncertainty = defaults.alpha * estimates.uncertainty
    latency = -defaults.beta * np.exp(np.minimum(late, MAX_EXPONENT))
    total = estimates.quality + cost + uncertainty + latency + estimates.feedback
    return Terms(estimates.quality, cost, uncertainty, latency, estimates.feedback, total)
