"""The tests that the signals rest on."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from scipy import stats

FOLDS: Final = 5
Side = Literal["two-sided", "greater", "less"]


def domain_classifier(old: np.ndarray, new: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n + m,) how much each row looks like the new ones, by a classifier that has not seen it.

    Ridge regression on the label over the embeddings, in closed form; the penalty is a tenth of the
    rows, spread over the dimensions.
    """
    x = np.concatenate([old, new]).astype(np.float64)
    y = np.concatenate([np.zeros(len(old)), np.ones(len(new))])
    fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    scores = np.empty(len(x))
    for number in range(FOLDS):
        rows, held = fold != number, fold == number
        middle = x[rows].mean(axis=0)
        centred = x[rows] - middle
        penalised = centred.T @ centred + 0.1 * rows.sum() / x.shape[1] * np.eye(x.shape[1])
        weights = np.linalg.solve(penalised, centred.T @ (y[rows] - y[rows].mean()))
        # Folds differ in their intercept alone by what is in them: left out.
        scores[held] = (x[held] - middle) @ weights
    return scores


def welch(now: np.ndarray, before: np.ndarray, side: Side) -> float:
    """The p-value; of values that do not vary at all: whether they are the same."""
    if now.std() == 0 and before.std() == 0:
        return 1.0 if np.isclose(now.mean(), before.mean()) else 0.0
    return float(stats.ttest_ind(now, before, equal_var=False, alternative=side).pvalue)


def proportion(now: float, n: int, before: float, m: int, side: Side) -> float:
    """Fisher's exact test of two shares."""
    table = [[round(now * n), n - round(now * n)], [round(before * m), m - round(before * m)]]
    return float(stats.fisher_exact(table, alternative=side).pvalue)
