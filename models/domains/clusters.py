"""Clusters of tags: what the domains are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from models.domains.taggers import Tags

if TYPE_CHECKING:
    from models.domains.normalisation import NormalTags

CLUSTERS: Final = 20
# "auto" tries these counts.
COUNTS: Final = (5, 8, 10, 12, 15, 20, 25, 30, 40)
# A cluster of fewer tags than this on average tells nothing.
TAGS_PER_CLUSTER: Final = 3
NAME_TAGS: Final = 3
ClusterCount = int | Literal["auto"]


class TagClusters:
    """k-means over tags, each weighing as many as its queries.

    A tag is where it is used: the mean embedding of its queries, less that of all queries, to unit
    length. (The embedding of its own one or two words says little of what it means here; see
    docs/experiments.md.)

    count: clusters, or ``"auto"``: the count of ``COUNTS`` with the highest mean silhouette
    (Rousseeuw 1987) over the tags.
    Learned: names_ (k,) each cluster's telling tags; cluster_ (tag → cluster); weights_ (tag → how
    telling it is, log(n / queries with it)).
    """

    def __init__(self, count: ClusterCount = CLUSTERS, seed: int = 0) -> None:
        self.count = count
        self.seed = seed

    def fit(self, tags: NormalTags, embeddings: np.ndarray) -> TagClusters:
        """Cluster the tags of n queries; no tag at all gives no cluster.

        embeddings: (n, d) float32, the queries' by an encoder that was not tuned.
        """
        n = max(len(tags.tags), 1)
        weights = np.log((n + 1) / np.maximum(tags.counts, 1))
        labels = self._labels(tags, usage(tags, embeddings))
        self.cluster_ = {tag: int(c) for tag, c in zip(tags.names, labels, strict=True)}
        self.weights_ = {tag: float(w) for tag, w in zip(tags.names, weights, strict=True)}
        self.names_: list[str] = []
        for cluster in range(int(labels.max(initial=-1)) + 1):
            members = np.flatnonzero(labels == cluster)
            top = members[np.argsort(-(tags.counts * weights)[members], kind="stable")]
            name = ", ".join(tags.names[i] for i in top[:NAME_TAGS])
            self.names_.append(name)
        return self

    def _labels(self, tags: NormalTags, used: np.ndarray) -> np.ndarray:
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score

        most = len(tags.names) // TAGS_PER_CLUSTER
        if not tags.names:
            return np.zeros(0, dtype=int)
        counts = [k for k in COUNTS if k <= most] if self.count == "auto" else [self.count]
        tried = []
        for count in counts or [1]:
            means = KMeans(max(1, min(count, most)), n_init=4, random_state=self.seed)
            labels = means.fit(used, sample_weight=tags.counts).labels_
            several = len(counts) > 1 and 1 < len(set(labels)) < len(labels)
            quality = silhouette_score(used, labels) if several else 0.0
            tried.append((quality, -count, labels))
        best = max(tried, key=lambda item: item[:2])[2]
        return np.unique(best, return_inverse=True)[1]  # no number is left out

    def assign(self, tags: Sequence[Tags]) -> np.ndarray:
        """(n,) each query's cluster by the weights of its tags; −1 for a query without a known tag."""
        assigned = np.full(len(tags), -1)
        for i, row in enumerate(tags):
            votes = np.zeros(len(self.names_))
            for tag in row:
                if tag in self.cluster_:
                    votes[self.cluster_[tag]] += self.weights_[tag]
            if votes.size and votes.max() > 0:
                assigned[i] = int(np.argmax(votes))
        return assigned


def usage(tags: NormalTags, embeddings: np.ndarray) -> np.ndarray:
    """(t, d) float32 unit rows: where each tag's queries lie, seen from the middle of all."""
    number = {name: i for i, name in enumerate(tags.names)}
    used = np.zeros((len(tags.names), embeddings.shape[1]), dtype=np.float32)
    centred = embeddings - embeddings.mean(axis=0)
    for row, embedding in zip(tags.tags, centred, strict=True):
        used[[number[tag] for tag in row]] += embedding
    return np.asarray(used / np.maximum(np.linalg.norm(used, axis=1, keepdims=True), 1e-9))
