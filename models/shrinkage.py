"""Shrinkage against the winner's curse.

Among many candidates the highest prediction is often the luckiest. A query's predictions are split
into each candidate's mean, what all candidates share on this query (how hard it is), and each
candidate's own deviation; only the deviation decides who wins, and it is scaled by how much of it
held true on training rows that the predictors had not seen.
"""

from __future__ import annotations

import numpy as np


def deviations(quality: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n, L) each candidate's own part, (n, 1) the part that all share) beyond the means (L,)."""
    beyond = quality - means
    common = beyond.mean(axis=1, keepdims=True)
    return beyond - common, common


def shrink(quality: np.ndarray, means: np.ndarray, scale: float) -> np.ndarray:
    """Predicted quality (n, L) with its deviations scaled, in [0, 1]."""
    own, common = deviations(quality, means)
    return np.asarray(np.clip(means + common + scale * own, 0.0, 1.0))


def deviation_scale(predicted: np.ndarray, truth: np.ndarray, means: np.ndarray) -> float:
    """The slope of true deviations over predicted ones, in [0, 1].

    predicted, truth: (n, L), predictions by models that did not see the row, and what came.
    """
    own, _ = deviations(predicted, means)
    came, _ = deviations(truth, means)
    spread = float((own**2).sum())
    return float(np.clip((own * came).sum() / spread, 0.0, 1.0)) if spread > 0 else 0.0
