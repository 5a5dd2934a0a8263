"""Calibration: the willingness to pay that meets a share of the best LLM's quality, or of its cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.decision.estimates import DecisionDefaults, Estimates, score
from models.errors import DecisionError
from models.evaluation.measures import QUALITY_SHARE
from models.evaluation.willingness import willingness_grid

DRAWS = 1000
# Halvings between two settings of the sweep: far finer than a prediction is.
HALVINGS = 20


@dataclass(frozen=True)
class Rows:
    """Estimates of queries whose outcomes are known. quality, cost: (n, L) the true ones."""

    estimates: Estimates
    quality: np.ndarray
    cost: np.ndarray

    def shares(self, defaults: DecisionDefaults, weights: np.ndarray | None = None) -> np.ndarray:
        """(..., 2): quality and cost of routing, as shares of the best single candidate's.

        weights: (..., n), how often each row counts; once each by default.
        """
        n = len(self.quality)
        weights = np.ones(n) if weights is None else weights
        choice = np.argmax(score(self.estimates, defaults).total, axis=1)
        lines = np.arange(n)
        best = int(np.argmax(self.quality.mean(axis=0)))
        quality = (weights @ self.quality[lines, choice]) / (weights @ self.quality[:, best])
        cost = (weights @ self.cost[lines, choice]) / (weights @ self.cost[:, best])
        return np.stack([quality, cost], axis=-1)


def calibrate(
    rows: Rows, quality_share: float | None = None, cost_share: float | None = None
) -> DecisionDefaults:
    """Decision defaults whose willingness to pay meets a share on these rows.

    quality_share: the least λ that keeps this share of the best single candidate's quality.
    cost_share: the largest λ that stays within this share of its cost. Give one.
    Raises DecisionError when no λ meets it.
    """
    grid = willingness_grid(rows.cost)[1:-1]
    got = np.array([rows.shares(DecisionDefaults(willingness_to_pay=w)) for w in grid])
    if quality_share is not None and cost_share is None:
        meets = got[:, 0] >= quality_share
        if not meets.any():
            raise DecisionError(
                f"no willingness to pay keeps {quality_share:.2%} of the best single candidate's "
                f"quality; the most is {got[:, 0].max():.2%}"
            )
        first = int(np.argmax(meets))
        return _between(rows, grid[first], grid[max(first - 1, 0)], 0, quality_share)
    if cost_share is not None and quality_share is None:
        meets = got[:, 1] <= cost_share
        if not meets.any():
            raise DecisionError(
                f"no willingness to pay stays within {cost_share:.2%} of the best single candidate's "
                f"cost; the least is {got[:, 1].min():.2%}"
            )
        last = len(grid) - 1 - int(np.argmax(meets[::-1]))
        return _between(rows, grid[last], grid[min(last + 1, len(grid) - 1)], 1, cost_share)
    raise DecisionError("give a quality share or a cost share, one of them")


def _between(rows: Rows, good: float, bad: float, column: int, share: float) -> DecisionDefaults:
    """The setting nearest to ``bad`` that still meets the share, from ``good``, which does."""
    for _ in range(HALVINGS):
        middle = float(np.sqrt(good * bad))
        got = rows.shares(DecisionDefaults(willingness_to_pay=middle))[column]
        meets = got >= share if column == 0 else got <= share
        if meets:
            good = middle
        else:
            bad = middle
    return DecisionDefaults(willingness_to_pay=good)


def choose_defaults(rows: Rows) -> DecisionDefaults:
    """The least λ that keeps 97.25 % of the best single candidate's quality; the best one where none
    does."""
    most = max(
        rows.shares(DecisionDefaults(willingness_to_pay=w))[0]
        for w in willingness_grid(rows.cost)[1:-1]
    )
    return calibrate(rows, quality_share=min(QUALITY_SHARE, float(most)))


def expected(rows: Rows, defaults: DecisionDefaults, seed: int = 0) -> dict[str, list[float]]:
    """What to expect on unseen rows: each share with its 95 % bootstrap interval."""
    n = len(rows.quality)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    value, drawn = rows.shares(defaults), rows.shares(defaults, weights)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {
        name: [float(value[i]), float(low[i]), float(high[i])]
        for i, name in enumerate(("quality_share", "cost_share"))
    }
