"""Whether a refitted predictor errs less than the old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models import escape
from models.encoder.inputs import QueryInputs
from models.markdown_table import markdown_table
from models.predictors.predictor import Predictor
from models.predictors.refitting import GradedAnswers

# Of the graded answers so many of the newest are not learned from: the refit is judged by them.
HELD_OUT: Final = 0.2
# A refit may err this much more, as a share of the old one's error.
TOLERANCE: Final = 0.02
# Standard errors by which it must err less to be better for sure.
SURELY: Final = 2.0


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of the predicted quality, and the standard error of their difference."""

    old: float
    new: float
    spread: float

    @classmethod
    def of(cls, old: Predictor, new: Predictor, inputs: QueryInputs, quality: np.ndarray) -> Errors:
        if not len(quality):
            return cls(0.0, 0.0, 0.0)
        before, after = ((p.predict(inputs)[0] - quality) ** 2 for p in (old, new))
        spread = float(np.std(after - before) / np.sqrt(len(quality)))
        return cls(float(before.mean()), float(after.mean()), spread)

    @property
    def worse(self) -> bool:
        """Whether the new one errs more, by more than the tolerance and what chance explains."""
        return self.new - self.old > TOLERANCE * self.old + self.spread

    @property
    def better(self) -> bool:
        """Whether the new one errs less, by more than chance explains."""
        return self.old - self.new > SURELY * self.spread

    def __str__(self) -> str:
        if self.old == self.new == 0.0:
            return "–"
        return f"{self.old:.4f} → {self.new:.4f} ± {self.spread:.4f}"


@dataclass(frozen=True)
class Refit:
    """A refitted predictor beside the old one, on the newest graded answers and on the evaluation
    set's test queries. shift: by how much those answers are better than the old one predicted."""

    predictor: Predictor
    rows: int
    on_feedback: Errors
    on_test: Errors
    shift: float

    @property
    def passes(self) -> bool:
        """Surely better on what users said last, whatever the test queries say, whose outcomes may be
        of another time; or noticeably worse on neither."""
        return self.on_feedback.better or not (self.on_feedback.worse or self.on_test.worse)


def shift_of(old: Predictor, answers: GradedAnswers) -> float:
    """By how much the answers are better than predicted, in the mean."""
    if not len(answers):
        return 0.0
    return float((answers.quality - old.predict(answers.inputs)[0]).mean())


def refit_table(refits: Sequence[Refit]) -> str:
    """Markdown: each refit's errors beside the old predictor's."""
    heads = (
        "candidate", "graded rows learned", "on the newest", "on the test queries", "gate",
    )  # fmt: skip
    rows = [
        (
            escape.markdown(refit.predictor.llm),
            refit.rows,
            refit.on_feedback,
            refit.on_test,
            "passes" if refit.passes else "refused",
        )
        for refit in refits
    ]
    lines = [
        "Mean squared error of the predicted quality, old → new, with the difference's standard "
        "error; the newest "
        f"{HELD_OUT:.0%} of the graded answers were not learned from.",
        "",
        markdown_table(heads, rows),
    ]
    return "\n".join(lines)
