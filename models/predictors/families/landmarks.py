"""Landmarks: ridge over a Gaussian kernel to typical queries (Nyström approximation of kernel ridge).

Williams and Seeger, *Using the Nyström Method to Speed Up Kernel Machines*, NIPS 2000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import DenseMap
from models.predictors.families.ridge import Ridge

LANDMARKS: Final = 256
QUERIES_PER_LANDMARK: Final = 4
# exp(-SHARPNESS · squared distance): a query at cosine 0.5 counts exp(-3).
SHARPNESS: Final = 3.0


class Landmarks(DenseMap):
    """Features: nearness to k-means centres (m, d), beside the forms as ``Ridge`` scales them."""

    family: ClassVar[str] = "landmarks"

    def __init__(self, centres: np.ndarray, ridge: Ridge) -> None:
        self.centres = centres.astype(np.float16)
        self._centres = np.ascontiguousarray(self.centres.astype(np.float32).T)
        self._squares = (self._centres**2).sum(axis=0)
        self.ridge = ridge

    @classmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> Landmarks:
        from sklearn.cluster import KMeans

        count = max(1, min(LANDMARKS, len(inputs) // QUERIES_PER_LANDMARK))
        means = KMeans(count, n_init=1, max_iter=50, random_state=seed).fit(inputs.embeddings)
        return cls(means.cluster_centers_, Ridge.learn(inputs, shared, seed))

    def represent(self, inputs: QueryInputs) -> np.ndarray:
        e = inputs.embeddings
        distances = (e**2).sum(axis=1)[:, None] + self._squares - 2 * e @ self._centres
        near = np.exp(-SHARPNESS * np.maximum(distances, 0))
        return np.hstack([near, self.ridge.scaled(inputs.forms)])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"centres": self.centres, **self.ridge.arrays}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Landmarks:
        return cls(arrays["centres"], Ridge.of(arrays))
