"""Tags made comparable, as InsTag does (Lu et al. 2024, section 3.2): lower case, rare ones dropped,
near-duplicates merged by embedding, implied ones pruned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sp

from models.domains.taggers import Tags
from models.encoder.inputs import Embedder

PUNCTUATION: Final = re.compile(r"[^\w\s+#]+|_+")
# Tags this alike (cosine of their embeddings) are one.
MERGE_COSINE: Final = 0.92
# A tag that comes with another this often is implied by it.
IMPLIED_CONFIDENCE: Final = 0.98
# A rule seen fewer times than this is chance.
IMPLIED_SUPPORT: Final = 10
NEIGHBOURS: Final = 10


@dataclass(frozen=True)
class NormalTags:
    """Normal tags of every query, and the tags themselves.

    tags: each query's, () where none is left. names: (t,) distinct tags, most frequent first.
    counts: (t,) queries of each. merged: every plain tag that was kept → the tag that stands for it.
    """

    tags: list[Tags]
    names: list[str]
    counts: np.ndarray
    merged: dict[str, str]

    def apply(self, tags: Sequence[Tags]) -> list[Tags]:
        """The tags of other queries in these terms; unknown ones are dropped."""
        known = set(self.names)
        rows = [[self.merged.get(plain_tag(tag)) for tag in row] for row in tags]
        return [tuple(dict.fromkeys(tag for tag in row if tag in known)) for row in rows]


def normalise(
    tags: Sequence[Tags],
    embedder: Embedder,
    least: int | None = None,
    merge_cosine: float = MERGE_COSINE,
) -> NormalTags:
    """Normalise the tags of n queries.

    least: a tag of fewer queries is dropped; a thousandth of the queries, between 2 and 20 (InsTag's
    own figure, for 300,000 queries), unless given.
    """
    if least is None:
        least = int(np.clip(len(tags) // 1000, 2, 20))
    plain = [tuple(dict.fromkeys(filter(None, map(plain_tag, row)))) for row in tags]
    frequency = Counter(tag for row in plain for tag in row)
    names = [t for t, c in sorted(frequency.items(), key=lambda i: (-i[1], i[0])) if c >= least]
    if not names:
        return NormalTags([() for _ in tags], [], np.zeros(0, int), {})
    merged = merge_alike(names, embedder.encode(names), merge_cosine)
    plain = [tuple(dict.fromkeys(merged[tag] for tag in row if tag in merged)) for row in plain]
    plain = prune_implied(plain)
    counts = Counter(tag for row in plain for tag in row)
    kept = sorted(counts, key=lambda tag: (-counts[tag], tag))
    return NormalTags(plain, kept, np.array([counts[tag] for tag in kept], dtype=int), merged)


def plain_tag(tag: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(PUNCTUATION.sub(" ", tag.lower()).split())


def merge_alike(names: Sequence[str], embeddings: np.ndarray, cosine: float) -> dict[str, str]:
    """Each tag's representative: the most frequent tag that it is alike to, else itself.

    names: most frequent first. A tag merges into a representative only, never along a chain, so
    that two tags far apart never meet through those between them.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(names))).fit(embeddings)
    distance, index = nearest.kneighbors(embeddings)
    target: dict[int, int] = {}
    for i in range(len(names)):
        alike = index[i][1 - distance[i] ** 2 / 2 >= cosine]
        heads = [int(j) for j in alike if j < i and target[int(j)] == j]
        target[i] = min(heads, default=i)
    return {names[i]: names[j] for i, j in target.items()}


def prune_implied(tags: Sequence[Tags]) -> list[Tags]:
    """Drop from each query the tags that another of its tags implies.

    A implies B when nearly every query with A has B; where they imply each other, the more frequent
    stays.
    """
    names = sorted({tag for row in tags for tag in row})
    number = {name: i for i, name in enumerate(names)}
    rows = np.repeat(np.arange(len(tags)), [len(row) for row in tags])
    columns = np.array([number[tag] for row in tags for tag in row], dtype=int)
    has = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(tags), len(names)))
    together = (has.T @ has).tocoo()
    counts = np.asarray(has.sum(axis=0)).ravel()
    implied: dict[str, set[str]] = {}
    for a, b, count in zip(together.row, together.col, together.data, strict=True):
        if a == b or count < IMPLIED_SUPPORT or count < IMPLIED_CONFIDENCE * counts[a]:
            continue
        mutual = count >= IMPLIED_CONFIDENCE * counts[b]
        if mutual and (counts[b], names[a]) > (counts[a], names[b]):
            continue
        implied.setdefault(names[a], set()).add(names[b])
    return [
        tuple(tag for tag in row if not any(tag in implied.get(other, ()) for other in row))
        for row in tags
    ]
