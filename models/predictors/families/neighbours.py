"""k nearest neighbours: the mean outcome of the training queries nearest by cosine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import Heads, SparseMap, Targets
from models.predictors.projection import principal_axes

NEIGHBOURS: Final = (25, 50, 100, 200)
COMPONENTS: Final = 64
# More training queries than this are thinned out.
KEPT: Final = 6000
# A row's outcome reaches this many kept queries, the nearest, itself first where it is kept.
REACH: Final = 10


class Neighbours(SparseMap):
    """kept: (m, c) float16, training queries' components. k: how many are nearest.

    Heads: per kept query, the candidate's mean outcome on the rows that reach it; so a candidate that
    answered other queries than the kept ones has neighbours too.
    """

    family: ClassVar[str] = "neighbours"

    def __init__(self, mean: np.ndarray, axes: np.ndarray, kept: np.ndarray, k: int) -> None:
        self.mean, self.axes, self.kept, self.k = mean, axes, kept, k
        self._kept = np.ascontiguousarray(kept.astype(np.float32).T)
        self._squares = (self._kept**2).sum(axis=0)

    @classmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> Neighbours:
        mean, axes = principal_axes(inputs.embeddings, COMPONENTS)
        n = len(inputs)
        rows = np.sort(np.random.default_rng(seed).permutation(n)[:KEPT])
        kept = ((inputs.embeddings[rows] - mean) @ axes).astype(np.float16)
        near = cls(mean, axes, kept, min(max(NEIGHBOURS) + 1, len(rows))).represent(inputs[rows])
        truth = shared[rows]
        # A row is its own nearest; beyond it, the k of least error.
        errors = {
            k: float(((truth[near[:, 1 : k + 1]].mean(axis=1) - truth) ** 2).mean())
            for k in NEIGHBOURS
            if k < len(rows)
        }
        best = min(errors, key=lambda k: errors[k]) if errors else max(1, len(rows) // 2)
        return cls(mean, axes, kept, best)

    def represent(self, inputs: QueryInputs) -> np.ndarray:
        """(n, k) the kept queries nearest, nearest first."""
        seen = (inputs.embeddings - self.mean) @ self.axes
        out = np.empty((len(seen), self.k), dtype=np.intp)
        for start in range(0, len(seen), 1024):
            distances = self._squares - 2 * seen[start : start + 1024] @ self._kept
            top = np.argpartition(distances, self.k - 1, axis=1)[:, : self.k]
            order = np.argsort(np.take_along_axis(distances, top, axis=1), axis=1, kind="stable")
            out[start : start + 1024] = np.take_along_axis(top, order, axis=1)
        return out

    def heads(self, represented: np.ndarray, targets: Targets) -> Heads:
        kept = len(self.kept)
        sums, rows = np.zeros((kept, targets.values.shape[1])), np.zeros((kept, 1))
        for near in represented[:, :REACH].T:
            np.add.at(sums, near, targets.values - targets.means)
            np.add.at(rows, near, 1.0)
        return Heads(sums / np.maximum(rows, 1.0), targets.means)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean,
            "axes": self.axes,
            "kept": self.kept,
            "k": np.array([self.k], dtype=np.int32),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Neighbours:
        return cls(arrays["mean"], arrays["axes"], arrays["kept"], int(arrays["k"][0]))
