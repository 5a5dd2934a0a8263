"""Uncertainty: per candidate, how little its training rows say about an embedding (LinUCB's term).

Kept for the embedding's leading directions and the length of what they leave over, which is far
smaller than the embedding's own matrix, and tells as well where predictions err
(docs/experiments.md).
"""

from __future__ import annotations

from typing import Final

import numpy as np

RIDGE: Final = 1.0
DIRECTIONS: Final = 32


def along(embeddings: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(n, k + 1): unit embeddings along the directions, and the length of the rest."""
    inside = embeddings @ directions
    rest = np.sqrt(np.maximum(1.0 - (inside**2).sum(axis=1), 0.0))
    return np.column_stack([inside, rest])


def inverse_covariance(rows: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """A_l⁻¹ (k, k) float32 with A_l = ridge·I + Σ z zᵀ over rows z (n, k)."""
    z = np.asarray(rows, dtype=np.float64)
    inverse = np.linalg.inv(ridge * np.eye(z.shape[1]) + z.T @ z)
    return ((inverse + inverse.T) / 2).astype(np.float32)


def bonus(inverses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """sqrt(zᵀ A_l⁻¹ z) for every row and candidate.

    inverses: (L, k, k). rows: (n, k). Returns (n, L) float32, in (0, 1] for unit rows and ridge 1.
    """
    count, k, _ = inverses.shape
    flat = inverses.reshape(count * k, k)
    out = np.empty((len(rows), count), dtype=np.float32)
    for i, z in enumerate(rows.astype(np.float32, copy=False)):
        out[i] = (flat @ z).reshape(count, k) @ z
    return np.sqrt(np.maximum(out, 0.0))
