"""From raw tags to domains: normalise, cluster, give each query the domain of its tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.domains.clusters import CLUSTERS, ClusterCount, TagClusters
from models.domains.normalisation import NormalTags, normalise
from models.domains.taggers import Tags
from models.encoder.inputs import Embedder


@dataclass(frozen=True)
class TaggedQueries:
    """Normal tags of n queries and what they say. domains: (n,) numbers of ``clusters``, −1 for a
    query without a telling tag. embeddings: (n, d), the untuned ones that the clusters come from."""

    tags: NormalTags
    clusters: TagClusters
    domains: np.ndarray
    embeddings: np.ndarray


def tagged_queries(
    queries: Sequence[str],
    tags: Sequence[Tags],
    embedder: Embedder,
    count: ClusterCount = CLUSTERS,
    seed: int = 0,
) -> TaggedQueries:
    """tags: each query's, as a tagger gave them. embedder: an encoder that was not tuned."""
    embeddings = embedder.encode(queries)
    normal = normalise(tags, embedder)
    clusters = TagClusters(count, seed).fit(normal, embeddings)
    return TaggedQueries(normal, clusters, clusters.assign(normal.tags), embeddings)
