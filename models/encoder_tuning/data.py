"""What the encoder's tuning learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.data.evaluation_set import EvaluationSet
from models.digest import digest_bytes, digest_json


@dataclass(frozen=True)
class TuningData:
    """n training queries. domains: (n,) −1 for unknown. quality: (n, L), NaN where there is no
    outcome. cost: (n, L) USD."""

    queries: Sequence[str]
    domains: np.ndarray
    quality: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(cls, train: EvaluationSet, domains: np.ndarray | None = None) -> TuningData:
        """domains: the training queries'; all unknown where not given."""
        queries = train.queries["query"].tolist()
        known = np.full(len(queries), -1) if domains is None else domains
        return cls(queries, known, train.matrix("quality"), train.matrix("cost_usd"))

    def sample(self, most: int, seed: int) -> TuningData:
        """At most so many of the queries, by seed, in their order."""
        if len(self.queries) <= most:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.queries))[:most])
        queries = [self.queries[i] for i in rows]
        return TuningData(queries, self.domains[rows], self.quality[rows], self.cost[rows])

    @property
    def digest(self) -> str:
        arrays = (self.domains.astype(np.int64), self.quality, self.cost)
        return digest_json([list(self.queries), *(digest_bytes(a.tobytes()) for a in arrays)])
