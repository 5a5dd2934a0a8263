"""What the predictors read of a query: its embedding, its form, its length in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from models.encoder.onnx import OnnxEncoder
from models.queries.form import NAMES, query_forms

FORM_WIDTH: Final = len(NAMES)
# Fewer unread rows than this judge nothing.
LEAST_UNREAD: Final = 30


class Embedder(Protocol):
    """Queries → embeddings (n, d) float32: ``OnnxEncoder`` or ``EmbeddingCache``."""

    def encode(
        self, queries: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class QueryInputs:
    """embeddings: (n, d) float32, unit rows. forms: (n, f) float32. tokens: (n,) float, how many
    tokens the whole query has by the encoder's tokenizer (estimated for a huge one). unread: (n,)
    bool, False for queries that the encoder's tuning learned from; None when it never learned."""

    embeddings: np.ndarray
    forms: np.ndarray
    tokens: np.ndarray
    unread: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: np.ndarray) -> QueryInputs:
        unread = None if self.unread is None else self.unread[rows]
        return QueryInputs(self.embeddings[rows], self.forms[rows], self.tokens[rows], unread)

    @property
    def honest(self) -> np.ndarray:
        """(n,) bool: the rows to judge a fit by: those unread, or all where they are too few."""
        if self.unread is None or self.unread.sum() < LEAST_UNREAD:
            return np.ones(len(self), dtype=bool)
        return self.unread


def read_queries(
    queries: Sequence[str],
    encoder: OnnxEncoder,
    embedder: Embedder | None = None,
    progress: Callable[[int], None] | None = None,
) -> QueryInputs:
    """Queries → predictor inputs; embedder: the encoder itself unless a cache is given."""
    embeddings = (embedder or encoder).encode(queries, progress=progress)
    tokens = np.array([encoder.tokenize(query).count for query in queries], dtype=np.float64)
    unread = ~encoder.split.learned(queries) if encoder.split is not None else None
    return QueryInputs(embeddings, query_forms(queries), tokens, unread)
