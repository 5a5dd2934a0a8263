"""Windows as the log would give them, made up."""

from typing import Any

import numpy as np
import pandas as pd

from models.drift.windows import Window

LLMS = ("cheap", "middle", "dear")


def window(seed: int = 0, count: int = 600, **changes: Any) -> Window:
    """Decisions without drift, but for what changes say.

    changes: worse={llm: by how much}, longer={llm: times the tokens}, slower={llm: times the seconds},
    waits={llm: times the seconds predicted}, shares=(of LLMS), unseen=share, dearer=times the cost,
    votes=share of the decisions, moved=how far the embeddings.
    """
    rng = np.random.default_rng(seed)
    given = {"shares": (0.5, 0.3, 0.2), "unseen": 0.02, "dearer": 1.0, "votes": 0.5, **changes}
    llm = rng.choice(LLMS, size=count, p=given["shares"])

    def by_llm(name: str, default: float) -> np.ndarray:
        values = given.get(name, {})
        return np.array([values.get(n, default) for n in llm])

    quality = rng.uniform(0.5, 0.9, count)
    tokens = rng.uniform(50, 400, count)
    longer = by_llm("longer", 1.0)
    observed = tokens * longer * rng.lognormal(-0.08, 0.4, count)
    cost = tokens * 1e-6 * (1 + 9 * (llm == "dear"))
    catalog, observed_catalog = 0.5 + tokens / 80, 0.5 + observed / 80
    voted = rng.random(count) < given["votes"]
    right = rng.random(count) < quality - by_llm("worse", 0.0)
    rows = pd.DataFrame(
        {
            "position": np.arange(count),
            "decided_at": np.arange(count, dtype=float),
            "llm": llm,
            "domain": rng.choice(["maths", "code", "letters"], count),
            "unseen_score": np.where(rng.random(count) < given["unseen"], 1.3, 0.5),
            "query_characters": 4 * tokens,
            "query_tokens": tokens,
            "quality": quality,
            "cost_usd": cost,
            "seconds": catalog * by_llm("waits", 1.0) * rng.lognormal(0, 0.05, count),
            "response_tokens": tokens,
            "uncertainty": rng.random(count),
            "catalog_seconds": catalog,
            "observed_tokens": observed,
            "observed_cost_usd": cost * observed / tokens * given["dearer"],
            "observed_seconds": observed_catalog
            * by_llm("slower", 1.0)
            * rng.lognormal(0, 0.2, count),
            "observed_catalog_seconds": observed_catalog,
            "reward": np.where(voted, right.astype(float), np.nan),
        }
    )
    embeddings = rng.normal(size=(min(count, 400), 16)).astype(np.float32)
    embeddings[:, 0] += given.get("moved", 0.0)
    return Window.of(rows, embeddings=embeddings, total=count, votes=int(voted.sum()))
