"""How far a query lies from everything the training queries covered."""

from __future__ import annotations

from typing import Final

import numpy as np

# Prototypes at most, and training queries each stands for at least.
PROTOTYPES: Final = 256
QUERIES_PER_PROTOTYPE: Final = 10
# This share of training queries lies within the threshold.
WITHIN: Final = 0.99
FOLDS: Final = 5


class UnseenScore:
    """Distance from an embedding to the nearest of many prototypes (k-means centres of the training
    queries), over a threshold: above 1 a query is of an unseen domain.

    The threshold is the distance within which 99 % of training queries lie from prototypes made
    without them (five folds). Of the scores tried on held-out subjects, only the nearest training
    query itself, which would need all of them, was better (docs/experiments.md).
    Learned: prototypes_ (p, d) float32; threshold_.
    """

    def __init__(self, prototypes: int = PROTOTYPES, seed: int = 0) -> None:
        self.prototypes = prototypes
        self.seed = seed

    def fit(self, embeddings: np.ndarray) -> UnseenScore:
        """embeddings: (n, d) float32 unit rows, the training queries'."""
        fold = np.random.default_rng(self.seed).permutation(len(embeddings)) % FOLDS
        distances = np.empty(len(embeddings))
        for number in range(FOLDS):
            out = fold == number
            if out.any() and not out.all():
                distances[out] = _distances(embeddings[out], self._centres(embeddings[~out]))
        self._keep(self._centres(embeddings))
        if len(embeddings) < FOLDS:  # too few to leave any out
            distances = _distances(embeddings, self.prototypes_)
        self.threshold_ = max(float(np.quantile(distances, WITHIN)), 1e-6)
        return self

    def extended(self, embeddings: np.ndarray) -> UnseenScore:
        """With prototypes of more queries, (n, d); the threshold stays."""
        wider = UnseenScore(self.prototypes, self.seed)
        wider._keep(np.vstack([self.prototypes_, self._centres(embeddings)]).astype(np.float32))
        wider.threshold_ = self.threshold_
        return wider

    def _centres(self, embeddings: np.ndarray) -> np.ndarray:
        from sklearn.cluster import KMeans

        count = max(1, min(self.prototypes, len(embeddings) // QUERIES_PER_PROTOTYPE))
        means = KMeans(count, n_init=1, max_iter=50, random_state=self.seed).fit(embeddings)
        return np.asarray(means.cluster_centers_, dtype=np.float32)

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, d) → (n,): 0 on a prototype, 1 at the threshold."""
        return _distances(embeddings, self.prototypes_, self._squares) / self.threshold_

    def _keep(self, prototypes: np.ndarray) -> None:
        self.prototypes_ = prototypes
        self._squares = (prototypes**2).sum(axis=1)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What ``of`` reads back."""
        return {
            "prototypes": self.prototypes_,
            "unseen_threshold": np.array([self.threshold_], dtype=np.float32),
        }

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> UnseenScore:
        """From the arrays of a fitted one."""
        score = cls(len(arrays["prototypes"]))
        score._keep(arrays["prototypes"])
        score.threshold_ = float(arrays["unseen_threshold"][0])
        return score


def _distances(
    embeddings: np.ndarray, prototypes: np.ndarray, squares: np.ndarray | None = None
) -> np.ndarray:
    """(n,) Euclidean distance to the nearest prototype. squares: (p,) the prototypes' own."""
    if squares is None:
        squares = (prototypes**2).sum(axis=1)
    nearest = (squares - 2 * embeddings @ prototypes.T).min(axis=1) + (embeddings**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(nearest, 0.0)))
