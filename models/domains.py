"""Domains: clusters of queries, named by their telling words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load_file, save_file

from models.errors import ReleaseError

FORMAT_VERSION: Final = 1
CONFIG_FILE: Final = "domains.json"
ARRAYS_FILE: Final = "domains.safetensors"
FILES: Final = (CONFIG_FILE, ARRAYS_FILE)
DOMAINS: Final = 20
# A cluster of fewer queries than this on average tells nothing.
QUERIES_PER_DOMAIN: Final = 25
NAME_WORDS: Final = 3


class Domains:
    """k-means clusters of embeddings.

    Learned: centroids_ (k, d) float32, unit rows; names_ (k,); sizes_ (k,) training queries.
    """

    def __init__(self, count: int = DOMAINS, seed: int = 0) -> None:
        self.count = count
        self.seed = seed

    def fit(self, embeddings: np.ndarray, queries: Sequence[str]) -> Domains:
        """embeddings: (n, d), the queries' own."""
        from sklearn.cluster import KMeans

        k = max(1, min(self.count, len(queries) // QUERIES_PER_DOMAIN))
        clusters = KMeans(k, n_init=4, random_state=self.seed).fit(embeddings)
        centroids = clusters.cluster_centers_
        lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
        self.centroids_ = (centroids / np.maximum(lengths, 1e-9)).astype(np.float32)
        assigned = self.assign(embeddings)
        self.sizes_ = np.bincount(assigned, minlength=k)
        self.names_ = telling_words(queries, assigned, k)
        return self

    def assign(self, embeddings: np.ndarray) -> np.ndarray:
        """(n,) index of each embedding's nearest domain."""
        return np.asarray(np.argmax(embeddings @ self.centroids_.T, axis=1))

    def save(self, folder: Path) -> None:
        """Write ``domains.json`` and ``domains.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"centroids": self.centroids_}, folder / ARRAYS_FILE)
        config = {
            "format_version": FORMAT_VERSION,
            "names": self.names_,
            "sizes": self.sizes_.tolist(),
            "seed": self.seed,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Domains:
        """Read what ``save`` wrote. Raises ReleaseError."""
        config = json.loads((folder / CONFIG_FILE).read_text())
        if config.get("format_version") != FORMAT_VERSION:
            raise ReleaseError(
                f"{folder / CONFIG_FILE}: format {config.get('format_version')!r}; this version "
                f"reads {FORMAT_VERSION}"
            )
        domains = cls(len(config["names"]), config["seed"])
        domains.centroids_ = load_file(folder / ARRAYS_FILE)["centroids"]
        domains.names_ = config["names"]
        domains.sizes_ = np.array(config["sizes"])
        return domains


def telling_words(queries: Sequence[str], assigned: np.ndarray, count: int) -> list[str]:
    """Each cluster's name: the words with the highest TF-IDF when a cluster is one document."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    documents = [
        " ".join(query for query, c in zip(queries, assigned, strict=True) if c == cluster)
        for cluster in range(count)
    ]
    vectorizer = TfidfVectorizer(
        stop_words="english", sublinear_tf=True, token_pattern=r"[^\W\d_]{3,}"
    )
    try:
        weights = vectorizer.fit_transform(documents).toarray()
    except ValueError:  # no word at all, say only numbers
        return [f"domain {cluster}" for cluster in range(count)]
    words = vectorizer.get_feature_names_out()
    names: list[str] = []
    for cluster in range(count):
        top = np.argsort(-weights[cluster], kind="stable")[:NAME_WORDS]
        name = ", ".join(words[i] for i in top if weights[cluster, i] > 0) or f"domain {cluster}"
        names.append(name if name not in names else f"{name} ({cluster})")
    return names
