"""The contract of a predictor family: a shared map of queries, and a linear head per candidate.

A map is learned once from all candidates' outcomes, so candidates share strength; a head is one
candidate's own, fitted on its own outcomes. Every prediction is linear in its map, so a mean of families
and a calibration are only other weights, and a release scores all candidates in one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from models.digest import digest_arrays
from models.encoder.inputs import QueryInputs
from models.predictors.ridge import PRIOR_ROWS, Decomposition, RidgeRegression


@dataclass(frozen=True)
class Targets:
    """What heads learn for some rows. values: (n, t). priors: (t,), what few rows shrink towards.
    judged: (n,) bool, the rows whose error may choose a setting."""

    values: np.ndarray
    priors: np.ndarray
    judged: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """(t,) shrunk towards the priors."""
        count = len(self.values)
        total = self.values.sum(axis=0) + PRIOR_ROWS * self.priors
        return np.asarray(total / (count + PRIOR_ROWS))


@dataclass(frozen=True)
class Heads:
    """weights: (m, t) over a map's m features; intercepts: (t,)."""

    weights: np.ndarray
    intercepts: np.ndarray


class FeatureMap(ABC):
    """φ: queries → features that every candidate's head is linear in."""

    family: ClassVar[str]
    # What a head's weights are kept as.
    weight_type: ClassVar[type[np.floating]]

    @classmethod
    @abstractmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> FeatureMap:
        """shared: (n, t) all candidates' standardised outcomes, none missing."""

    @abstractmethod
    def represent(self, inputs: QueryInputs) -> np.ndarray:
        """(n, ·): features themselves, or the numbers of those that are not zero."""

    @abstractmethod
    def heads(self, represented: np.ndarray, targets: Targets) -> Heads:
        """Fit on represented rows; without any, the priors."""

    @abstractmethod
    def combine(self, represented: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """φ · weights: (n, t) for weights (m, t)."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """What ``of`` reads back."""

    @classmethod
    @abstractmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> FeatureMap:
        """From the arrays of a learned one."""

    @property
    def digest(self) -> str:
        """Maps of equal digest are one map."""
        return digest_arrays({f"{self.family}.{name}": a for name, a in self.arrays.items()})


class DenseMap(FeatureMap):
    """A map whose features are numbers; heads are ridge regressions."""

    weight_type: ClassVar[type[np.floating]] = np.float32

    def heads(self, represented: np.ndarray, targets: Targets) -> Heads:
        return ridge_heads(represented, targets)

    def combine(self, represented: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.asarray(represented @ weights)


class SparseMap(FeatureMap):
    """A map by numbers (n, k): the features of those numbers are 1/k, all others 0."""

    weight_type: ClassVar[type[np.floating]] = np.float16

    def combine(self, represented: np.ndarray, weights: np.ndarray) -> np.ndarray:
        out = np.empty((len(represented), weights.shape[1]))
        for i, numbers in enumerate(represented):
            out[i] = weights[numbers].sum(axis=0, dtype=np.float32)
        return np.asarray(out / represented.shape[1])


def ridge_heads(features: np.ndarray, targets: Targets) -> Heads:
    """Ridge regressions over features (n, m), the penalty of each by its leave-one-out error."""
    if not len(features):
        return Heads(np.zeros((features.shape[1], len(targets.priors))), targets.priors)
    decomposed = Decomposition(features)
    fitted = [
        RidgeRegression(float(prior), PRIOR_ROWS).fit(decomposed, values, targets.judged)
        for values, prior in zip(targets.values.T, targets.priors, strict=True)
    ]
    return Heads(
        np.column_stack([head.weights_ for head in fitted]),
        np.array([head.intercept_ for head in fitted]),
    )
