"""The recipe of a predictor: which families' mean it is, and the line that calibrates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.predictors.ridge import PRIOR_ROWS

# A family alone must err less than the mean of all by this many standard errors.
MARGIN: Final = 2.0
LEAST_SLOPE: Final = 0.25
LARGEST_SLOPE: Final = 2.0


@dataclass(frozen=True)
class Recipe:
    """families: whose mean. slope, intercept: of the truth over that mean. predicted: (n,) what that
    says of rows that the families had not seen. error: their mean squared error."""

    families: tuple[str, ...]
    slope: float
    intercept: float
    predicted: np.ndarray
    error: float


def choose_recipe(
    unseen: Mapping[str, np.ndarray],
    truth: np.ndarray,
    judged: np.ndarray,
    *,
    alone: bool = True,
) -> Recipe:
    """The mean of all families, or one alone where that errs less beyond chance.

    Candidates compete by small differences, which like predictors get right together: hence a mean
    that all use, unless there is a reason.
    unseen: family → (n,) predictions of rows not learned from. truth: (n,), NaN where unknown.
    judged: (n,) bool, the known rows to choose by.
    alone: whether one family may do.
    """
    options = {family: (family,) for family in unseen} | {"mean": tuple(unseen)}
    lines = {name: _line(unseen, families, truth, judged) for name, families in options.items()}
    losses = {name: (line.predicted - truth)[judged] ** 2 for name, line in lines.items()}
    chosen, gain = "mean", 0.0
    for family in unseen if alone else ():
        less = losses["mean"] - losses[family]
        error = float(less.std()) / max(len(less), 1) ** 0.5
        if less.mean() > max(MARGIN * error, gain):
            chosen, gain = family, float(less.mean())
    return lines[chosen]


def _line(
    unseen: Mapping[str, np.ndarray],
    families: tuple[str, ...],
    truth: np.ndarray,
    judged: np.ndarray,
) -> Recipe:
    """The families' mean, calibrated."""
    mean = np.mean([unseen[family] for family in families], axis=0)
    slope, intercept = calibration_line(mean[judged], truth[judged])
    line = intercept + slope * mean
    return Recipe(families, slope, intercept, line, float(((line - truth)[judged] ** 2).mean()))


def calibration_line(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(slope, intercept) of truth over predictions, both (n,); with few rows nearly (1, 0)."""
    n = len(truth)
    middle = float(predicted.mean())
    spread = predicted - middle
    # As if PRIOR_ROWS rows of like spread had shown a slope of 1, and no error of the mean.
    prior = PRIOR_ROWS * max(float(truth.var()), 1e-9)
    slope = (float(spread @ (truth - truth.mean())) + prior) / (float(spread @ spread) + prior)
    slope = float(np.clip(slope, LEAST_SLOPE, LARGEST_SLOPE))
    level = middle + n / (n + PRIOR_ROWS) * float(truth.mean() - middle)
    return slope, level - slope * middle
