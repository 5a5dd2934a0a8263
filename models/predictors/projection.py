"""Leading directions of embeddings: where trees, neighbours and uncertainty look at a query."""

from __future__ import annotations

import numpy as np


def leading_directions(rows: np.ndarray, count: int) -> np.ndarray:
    """(d, k) float32, the directions that rows (n, d) mostly lie in; k is ``count`` or fewer.

    A direction's sign is such that its largest entry is positive, so that equal data give equal bytes.
    """
    x = np.asarray(rows, dtype=np.float64)
    _, vectors = np.linalg.eigh(x.T @ x)
    axes = vectors[:, ::-1][:, : min(count, *x.shape)]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return np.asarray(axes * np.sign(largest), dtype=np.float32)


def principal_axes(embeddings: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean (d,), axes (d, k)) float32 of embeddings (n, d)."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32), leading_directions(embeddings - mean, count)
