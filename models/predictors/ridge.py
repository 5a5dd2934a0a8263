"""Ridge regression with the penalty chosen by exact leave-one-out error."""

from __future__ import annotations

from typing import Final

import numpy as np

# Rows that the prior mean of a rarely seen candidate is worth.
PRIOR_ROWS: Final = 20.0
PRIOR_QUALITY: Final = 0.5
PENALTIES: Final = tuple(float(a) for a in np.geomspace(1.0, 3000.0, 15))


class Decomposition:
    """Centred features (n, d) by their principal axes; shared by every target on the same rows."""

    def __init__(self, features: np.ndarray) -> None:
        x = np.asarray(features, dtype=np.float64)
        self.middle = x.mean(axis=0)
        centred = x - self.middle
        eigenvalues, self.axes = np.linalg.eigh(centred.T @ centred)
        self.variances = np.maximum(eigenvalues, 0.0)
        self.scores = centred @ self.axes
        self.squares = self.scores**2


class RidgeRegression:
    """Linear regression with an L2 penalty.

    The penalty is the strongest whose leave-one-out error is within one standard error of the least
    (Breiman et al., *Classification and Regression Trees*, 1984): among many candidates the argmax
    picks the luckiest error, so smoother predictions route better than the least-error ones.
    The intercept shrinks towards ``prior`` as if ``prior_rows`` rows had shown it.

    Learned: weights_ (d,) float64, intercept_, penalty_, error_ (mean squared leave-one-out error
    of the judged rows), leave_one_out_ (n,): each training row as predicted by a model that did not
    see it.
    """

    def __init__(self, prior: float, prior_rows: float) -> None:
        self.prior = prior
        self.prior_rows = prior_rows

    def fit(
        self, features: Decomposition, target: np.ndarray, judged: np.ndarray | None = None
    ) -> RidgeRegression:
        """target: (n,), the decomposition's rows. judged: (n,) bool, the rows whose leave-one-out
        error chooses the penalty; all by default."""
        y = np.asarray(target, dtype=np.float64)
        n = len(y)
        judged = np.ones(n, dtype=bool) if judged is None else judged
        centre = (y.sum() + self.prior_rows * self.prior) / (n + self.prior_rows)
        projected = features.scores.T @ (y - centre)
        paths = []
        for penalty in PENALTIES:
            shrink = 1.0 / (features.variances + penalty)
            fitted = centre + features.scores @ (shrink * projected)
            leverage = np.minimum(features.squares @ shrink + 1.0 / (n + self.prior_rows), 0.999)
            out = y - (y - fitted) / (1.0 - leverage)
            squared = (y - out)[judged] ** 2
            # Of so many rows, however few judge: what is smoothed away is the same rows' noise.
            paths.append((squared.mean(), squared.std() / np.sqrt(n), penalty, out))
        least = min(paths, key=lambda path: path[0])
        chosen = [path for path in paths if path[0] <= least[0] + least[1]][-1]
        self.error_ = float(chosen[0])
        self.penalty_, self.leave_one_out_ = chosen[2], chosen[3]
        self.weights_ = features.axes @ (projected / (features.variances + self.penalty_))
        self.intercept_ = float(centre - features.middle @ self.weights_)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n, d) → (n,)."""
        return np.asarray(features @ self.weights_ + self.intercept_)


def quality_regression() -> RidgeRegression:
    """The unfitted model of a candidate's quality."""
    return RidgeRegression(PRIOR_QUALITY, PRIOR_ROWS)
