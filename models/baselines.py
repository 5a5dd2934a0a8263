"""Baselines every router is shown beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.model_selection import KFold

NEIGHBOURS: Final = (5, 10, 20, 40, 80, 160, 320)
FOLDS: Final = 5


@dataclass(frozen=True)
class NearestNeighbours:
    """Mean outcome of the k nearest training queries by cosine; k chosen by cross-validation."""

    k: int
    embeddings: np.ndarray
    quality: np.ndarray
    log_tokens: np.ndarray

    def predict(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(quality, response tokens), each (n, L)."""
        near = nearest_rows(self.embeddings, embeddings, self.k)
        return mean_of(self.quality, near), np.expm1(mean_of(self.log_tokens, near))


def nearest_rows(known: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """(n, k) indices of the nearest rows by inner product, nearest first."""
    k = min(k, len(known))
    out = np.empty((len(asked), k), dtype=np.int64)
    for start in range(0, len(asked), 1024):
        similar = asked[start : start + 1024] @ known.T
        top = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similar, top, axis=1), axis=1, kind="stable")
        out[start : start + 1024] = np.take_along_axis(top, order, axis=1)
    return out


def mean_of(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean over rows (n, k) of values (m, L), missing ones left out; the column's mean if all are."""
    taken = values[rows]
    seen = ~np.isnan(taken)
    total = np.where(seen, taken, 0.0).sum(axis=1)
    count = seen.sum(axis=1)
    means = total / np.maximum(count, 1)
    return np.asarray(np.where(count > 0, means, np.nanmean(values, axis=0)))


def tuned_nearest_neighbours(
    embeddings: np.ndarray, quality: np.ndarray, tokens: np.ndarray, seed: int = 0
) -> NearestNeighbours:
    """Choose k by the squared error of quality over five folds of the training rows.

    embeddings: (n, d); quality, tokens: (n, L), NaN where there is no outcome.
    """
    errors = dict.fromkeys(NEIGHBOURS, 0.0)
    folds = KFold(min(FOLDS, len(embeddings)), shuffle=True, random_state=seed)
    for kept, held in folds.split(embeddings):
        near = nearest_rows(embeddings[kept], embeddings[held], max(NEIGHBOURS))
        for k in NEIGHBOURS:
            guess = mean_of(quality[kept], near[:, :k])
            errors[k] += float(np.nansum((guess - quality[held]) ** 2))
    k = min(errors, key=lambda key: errors[key])
    return NearestNeighbours(k, embeddings, quality, np.log1p(tokens))
