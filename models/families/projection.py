"""Principal axes of embeddings: where trees and neighbours look at a query."""

from __future__ import annotations

import numpy as np


def principal_axes(embeddings: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean (d,), axes (d, k)) float32 of embeddings (n, d); k is ``count`` or fewer.

    An axis' sign is such that its largest entry is positive, so that equal data give equal bytes.
    """
    mean = embeddings.mean(axis=0, dtype=np.float64)
    centred = embeddings - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, : min(count, len(embeddings), embeddings.shape[1])]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return mean.astype(np.float32), (axes * np.sign(largest)).astype(np.float32)
