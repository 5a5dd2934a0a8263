"""Baselines every router is shown beside: they predict quality and response tokens, as ours do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import KFold, train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor

NEIGHBOURS: Final = (5, 10, 20, 40, 80, 160, 320)
CLUSTERS: Final = (5, 10, 20, 40, 80)
FOLDS: Final = 5
TREES: Final = 100
LENGTH_NEIGHBOURS: Final = 20
VALIDATED_SHARE: Final = 0.2


@dataclass(frozen=True)
class Outcomes:
    """What baselines learn from. embeddings: (n, d). quality, log_tokens: (n, L), NaN where there is
    no outcome."""

    embeddings: np.ndarray
    quality: np.ndarray
    log_tokens: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Outcomes:
        return Outcomes(self.embeddings[rows], self.quality[rows], self.log_tokens[rows])


# embeddings (n, d) → (quality, response tokens), each (n, L)
Guess = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def nearest_neighbours(train: Outcomes, k: int) -> Guess:
    """Mean outcome of the k nearest training queries by cosine."""

    def guess(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        near = nearest_rows(train.embeddings, asked, k)
        return mean_of(train.quality, near), np.expm1(mean_of(train.log_tokens, near))

    return guess


def clusters(train: Outcomes, k: int, seed: int = 0) -> Guess:
    """Mean outcome of the query's k-means cluster."""
    means = KMeans(min(k, len(train.embeddings)), n_init=4, random_state=seed)
    labels = means.fit_predict(train.embeddings)
    rows = [np.flatnonzero(labels == label) for label in range(means.n_clusters)]
    quality, log_tokens = (
        np.vstack([mean_of(values, members[None])[0] for members in rows])
        for values in (train.quality, train.log_tokens)
    )

    def guess(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nearest = means.predict(asked)
        return quality[nearest], np.expm1(log_tokens[nearest])

    return guess


def tuned(
    make: Callable[[Outcomes, int], Guess], sizes: tuple[int, ...], train: Outcomes, seed: int = 0
) -> tuple[int, Guess]:
    """(the size of least squared error of quality over five folds, fitted with it on all rows)."""
    errors = dict.fromkeys(sizes, 0.0)
    folds = KFold(min(FOLDS, len(train.embeddings)), shuffle=True, random_state=seed)
    for kept, held in folds.split(train.embeddings):
        for size in sizes:
            quality, _ = make(train[kept], size)(train.embeddings[held])
            errors[size] += float(np.nansum((quality - train.quality[held]) ** 2))
    best = min(errors, key=lambda size: errors[size])
    return best, make(train, best)


def paper_recipe(train: Outcomes, seed: int = 0) -> Guess:
    """MixLLM's own predictors, per candidate: quality by a random forest over the embedding; length
    by whichever of MLP, random forest and kNN errs least on a fifth of the training queries."""
    fitted = []
    for quality, log_tokens in zip(train.quality.T, train.log_tokens.T, strict=True):
        rows = np.isfinite(quality)
        known = train.embeddings[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            length = _best_length(known, log_tokens[rows], seed)
        fitted.append((_forest(seed).fit(known, quality[rows]), length))

    def guess(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        quality = np.column_stack([forest.predict(asked) for forest, _ in fitted])
        length = np.column_stack([length.predict(asked) for _, length in fitted])
        return quality, np.expm1(length)

    return guess


def _forest(seed: int) -> Any:
    return RandomForestRegressor(
        TREES,
        min_samples_leaf=5,
        max_features="sqrt",
        random_state=seed,
        n_jobs=os.cpu_count(),
    )


def _best_length(embeddings: np.ndarray, log_tokens: np.ndarray, seed: int) -> Any:
    """The length model of least error on held-out rows, fitted on all."""

    def models() -> list[Any]:
        return [
            _forest(seed),
            KNeighborsRegressor(min(LENGTH_NEIGHBOURS, max(1, len(embeddings) // 2))),
            MLPRegressor(
                early_stopping=len(embeddings) >= 50,
                n_iter_no_change=5,
                tol=1e-3,
                random_state=seed,
            ),
        ]

    if len(embeddings) < FOLDS:
        return models()[0].fit(embeddings, log_tokens)
    kept, held = train_test_split(
        np.arange(len(embeddings)), test_size=VALIDATED_SHARE, random_state=seed
    )
    errors = [
        mean_squared_error(
            log_tokens[held],
            model.fit(embeddings[kept], log_tokens[kept]).predict(embeddings[held]),
        )
        for model in models()
    ]
    return models()[int(np.argmin(errors))].fit(embeddings, log_tokens)


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
