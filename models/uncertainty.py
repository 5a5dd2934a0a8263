"""Uncertainty: per candidate, how little its training rows say about an embedding (LinUCB's term)."""

from __future__ import annotations

from typing import Final

import numpy as np

RIDGE: Final = 1.0


def inverse_covariance(embeddings: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """A_l⁻¹ (d, d) float32 with A_l = ridge·I + Σ e eᵀ over the rows of embeddings (n, d)."""
    e = np.asarray(embeddings, dtype=np.float64)
    a = ridge * np.eye(e.shape[1]) + e.T @ e
    inverse = np.linalg.inv(a)
    return ((inverse + inverse.T) / 2).astype(np.float32)


def bonus(inverses: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """sqrt(eᵀ A_l⁻¹ e) for every embedding and candidate.

    inverses: (L, d, d). embeddings: (n, d). Returns (n, L) float32, in (0, 1] for ridge 1.
    """
    count, d, _ = inverses.shape
    out = np.empty((len(embeddings), count), dtype=np.float32)
    if len(embeddings) == 1:  # one query: one matrix-vector product over all candidates
        e = embeddings[0]
        out[0] = (inverses.reshape(count * d, d) @ e).reshape(count, d) @ e
    else:
        for index in range(count):
            out[:, index] = np.einsum("nd,nd->n", embeddings @ inverses[index], embeddings)
    return np.sqrt(np.maximum(out, 0.0))
