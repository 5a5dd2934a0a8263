"""Evaluation sets: queries, the outcomes of named LLMs on them, and the catalog."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

from models.catalog import Catalog
from models.digest import digest_bytes, digest_json
from models.errors import EvaluationSetError

# A candidate must have outcomes for this share of the training and of the test queries to compete.
COVERAGE: Final = 0.99


@dataclass(frozen=True)
class EvaluationSet:
    """Validated queries and outcomes.

    queries: query_id, query, source; one row a query, in the file's order.
    outcomes: query_id, llm, quality in [0, 1], prompt_tokens, response_tokens, cost_usd (measured,
    or from the catalog's prices), latency_seconds (NaN where not measured); one row a (query, llm).
    """

    queries: pd.DataFrame
    outcomes: pd.DataFrame
    catalog: Catalog
    name: str = "evaluation set"
    quarantined: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """The content's identity: queries, outcomes and catalog, whatever the file format."""
        parts = [digest_json(self.catalog.model_dump(exclude={"llms": {"__all__": {"upstream"}}}))]
        for table in (self.queries, self.outcomes):
            hashes = pd.util.hash_pandas_object(table, index=False).to_numpy()
            parts.append(digest_bytes(np.ascontiguousarray(hashes).tobytes()))
        return digest_json(parts)

    @property
    def candidates(self) -> list[str]:
        """Candidates of the catalog with at least one outcome, in the catalog's order."""
        seen = set(self.outcomes["llm"])
        return [name for name in self.catalog.names if name in seen]

    def matrix(self, column: str, candidates: list[str] | None = None) -> np.ndarray:
        """One outcome column as (queries, candidates) float64; NaN where there is no outcome."""
        names = self.candidates if candidates is None else candidates
        wide = self.outcomes.pivot(index="query_id", columns="llm", values=column)
        wide = wide.reindex(index=self.queries["query_id"], columns=names)
        return wide.to_numpy(dtype=np.float64)

    def where(self, keep: np.ndarray) -> EvaluationSet:
        """The set with only the queries that a boolean mask keeps."""
        queries = self.queries.loc[keep].reset_index(drop=True)
        inside = self.outcomes["query_id"].isin(queries["query_id"])
        return EvaluationSet(
            queries=queries,
            outcomes=self.outcomes.loc[inside].reset_index(drop=True),
            catalog=self.catalog,
            name=self.name,
            notes=self.notes,
        )

    def split(self) -> tuple[EvaluationSet, EvaluationSet]:
        """The standard split: (training set, test set)."""
        test = self.queries["query_id"].map(is_test_query).to_numpy(dtype=bool)
        if not test.any() or test.all():
            raise EvaluationSetError(
                f"{self.name}: the standard split of its {len(test)} queries leaves "
                f"{int((~test).sum())} for training and {int(test.sum())} for testing; "
                "more queries are needed, or --test-data"
            )
        return self.where(~test), self.where(test)


def is_test_query(query_id: str) -> bool:
    """The standard split's rule: one query in five, by its id alone."""
    return int(hashlib.sha256(query_id.encode()).hexdigest()[:8], 16) % 5 == 0


def comparable(
    train: EvaluationSet, test: EvaluationSet
) -> tuple[list[str], EvaluationSet, list[str]]:
    """The coverage rule: (candidates that compete, test queries all of them answered, notes).

    Left out: a candidate with outcomes for under 99 % of the training or of the test queries, then
    test queries that lack an outcome of a remaining candidate.
    """
    notes, kept = [], []
    for name in train.catalog.names:
        shares = [
            (part.outcomes["llm"] == name).sum() / max(len(part.queries), 1)
            for part in (train, test)
        ]
        if min(shares) >= COVERAGE:
            kept.append(name)
        else:
            notes.append(
                f"left out candidate {name}: outcomes for {shares[0]:.1%} of the training and "
                f"{shares[1]:.1%} of the test queries (under {COVERAGE:.0%})"
            )
    if len(kept) < 2:
        raise EvaluationSetError(
            f"{len(kept)} of the {len(train.catalog.names)} LLMs of the catalog have outcomes for "
            f"{COVERAGE:.0%} of the training and of the test queries, at least 2 must; "
            + "; ".join(notes or ["add another LLM and its outcomes"])
        )
    whole = ~np.isnan(test.matrix("quality", kept)).any(axis=1)
    if not whole.all():
        dropped = int((~whole).sum())
        notes.append(f"left out {dropped} test queries that lack an outcome of a candidate")
    if not whole.any():
        raise EvaluationSetError("no test query has an outcome of every candidate")
    return kept, test.where(whole), notes
