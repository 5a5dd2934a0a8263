"""Windows: stretches of the log as tables, what drift is looked for in.

One row a decision; what nobody knows of it is NaN. A large window is a random sample of its decisions:
``total`` says how many it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from models.domains.domains import UNKNOWN

# Predicted of the chosen candidate: quality, cost_usd, seconds, response_tokens, uncertainty. catalog_*:
# the seconds of the catalog's speed, without waiting, for the predicted and for the observed tokens.
# observed_*: of the answer, where the chosen candidate gave it whole. reward: the mean vote in [0, 1].
NUMBERS: Final = (
    "position", "decided_at", "unseen_score", "query_characters", "query_tokens",
    "quality", "cost_usd", "seconds", "response_tokens", "uncertainty", "catalog_seconds",
    "observed_tokens", "observed_cost_usd", "observed_seconds", "observed_catalog_seconds", "reward",
)  # fmt: skip
WORDS: Final = ("llm", "domain")


@dataclass(frozen=True)
class Window:
    """rows: ``NUMBERS`` float64 and ``WORDS``, by position; decisions of the router itself, no fallback.
    embeddings: (m, d) float32 of some of the queries. total: decisions in all. votes: received
    meanwhile, whatever they are about. fallbacks: decisions that were not the router's."""

    rows: pd.DataFrame
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    total: int = 0
    votes: int = 0
    fallbacks: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, rows: pd.DataFrame, **rest: Any) -> Window:
        """With every column, in order; those that are missing are unknown."""
        full = rows.reindex(columns=[*NUMBERS, *WORDS])
        full = full.astype(dict.fromkeys(NUMBERS, np.float64)).astype(dict.fromkeys(WORDS, object))
        return cls(full.reset_index(drop=True), **{"total": len(full), **rest})

    def of_llm(self, name: str) -> pd.DataFrame:
        """The rows in which one candidate was chosen."""
        return self.rows[self.rows["llm"] == name]

    @property
    def llms(self) -> list[str]:
        """Who was chosen, by name."""
        return sorted(self.rows["llm"].dropna().unique().tolist())

    def shares(self) -> dict[str, float]:
        """Candidate → the share of the decisions it was chosen in, the largest first."""
        counts = self.rows["llm"].value_counts(normalize=True)
        return {str(name): float(share) for name, share in counts.items()}


def residuals(rows: pd.DataFrame) -> pd.DataFrame:
    """What was observed against what was predicted, NaN where unknown: ``quality`` (reward less
    prediction), ``tokens`` and ``seconds`` (log ratios; seconds against the catalog's speed)."""
    observed = np.log1p(rows["observed_tokens"]) - np.log1p(rows["response_tokens"])
    slower = _log_ratio(rows["observed_seconds"], rows["observed_catalog_seconds"])
    return pd.DataFrame(
        {"quality": rows["reward"] - rows["quality"], "tokens": observed, "seconds": slower}
    )


def delay(rows: pd.DataFrame) -> pd.Series[float]:
    """(n,) log of the predicted seconds, waiting included, over the catalog's."""
    return _log_ratio(rows["seconds"], rows["catalog_seconds"])


def _log_ratio(above: pd.Series[float], below: pd.Series[float]) -> pd.Series[float]:
    known = (above > 0) & (below > 0)
    return pd.Series(np.log(above.where(known) / below.where(known)), index=above.index)


def figures(window: Window) -> dict[str, float | None]:
    """What a window comes to: the report's lines through time. None: unknown."""
    rows = window.rows
    shares = np.array(list(window.shares().values()))
    paid = rows["observed_cost_usd"].notna() & (rows["cost_usd"] > 0)
    off = residuals(rows)
    found = {
        "unseen share": (rows["unseen_score"] > 1).mean() if len(rows) else np.nan,
        "query tokens": rows["query_tokens"].mean(),
        "entropy of choices": float(-(shares * np.log(shares)).sum()) if len(shares) else np.nan,
        "largest share": shares.max() if len(shares) else np.nan,
        "predicted quality": rows["quality"].mean(),
        "satisfaction": rows["reward"].mean(),
        "quality beyond prediction": off["quality"].mean(),
        "tokens over predicted": np.exp(off["tokens"].mean()),
        "cost over predicted": (
            rows.loc[paid, "observed_cost_usd"].sum() / rows.loc[paid, "cost_usd"].sum()
            if paid.any()
            else np.nan
        ),
        "observed seconds": rows["observed_seconds"].mean(),
        "predicted seconds over the catalog's": np.exp(delay(rows).mean()),
        "uncertainty": rows["uncertainty"].mean(),
        "votes a decision": window.votes / window.total if window.total else np.nan,
    }
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}


def domain_shares(window: Window) -> dict[str, float]:
    """Domain → share, ``unknown`` included; the largest first."""
    counts = window.rows["domain"].fillna(UNKNOWN).value_counts(normalize=True)
    return {str(name): float(share) for name, share in counts.items()}
