"""Which training queries the encoder's tuning learns from, by a rule that needs only the query."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TuningSplit:
    """A share of queries is held out of the tuning: it stops the tuning early, and later judges the
    predictors, whose errors on queries that the encoder learned from are too small.

    held_share: in (0, 1). seed: which ones.
    """

    held_share: float
    seed: int

    def learned(self, queries: Sequence[str]) -> np.ndarray:
        """(n,) bool: the queries that the tuning learned from, if it had them."""
        return np.array([self._draw(query) >= self.held_share for query in queries], dtype=bool)

    def _draw(self, query: str) -> float:
        text = f"{self.seed}\n{query}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48
