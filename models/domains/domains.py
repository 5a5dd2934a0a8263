"""Domains: clusters of tags, and where the queries of each lie in the encoder's space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from models.domains.clusters import TagClusters
from models.domains.taggers import Tags
from models.domains.unseen import UnseenScore
from models.errors import ReleaseError
from models.files.release_files import read_arrays, read_json, reading

FORMAT_VERSION: Final = 2
CONFIG_FILE: Final = "domains.json"
ARRAYS_FILE: Final = "domains.safetensors"
FILES: Final = (CONFIG_FILE, ARRAYS_FILE)
UNKNOWN: Final = "unknown"


class Domains:
    """Where the domains lie in one encoder's space, and how far from all of them is too far.

    Learned: names_ (k,); centroids_ (k, d) float32, unit rows; sizes_ (k,) training queries;
    unknown_ training queries without a domain; clusters_ (the tags'); unseen_ (``UnseenScore``).
    """

    def fit(self, embeddings: np.ndarray, tags: Sequence[Tags], clusters: TagClusters) -> Domains:
        """embeddings: (n, d), the training queries'. tags: theirs, normal. Domains without a query
        are left out; where no query has one, all queries are one domain named ``unknown``."""
        assigned = clusters.assign(tags)
        self.clusters_ = clusters
        self.unknown_ = int((assigned < 0).sum())
        if not (assigned >= 0).any():
            assigned = np.zeros_like(assigned)
        found = np.unique(assigned[assigned >= 0])
        self.names_ = [clusters.names_[c] if clusters.names_ else UNKNOWN for c in found]
        self.sizes_ = np.array([(assigned == c).sum() for c in found])
        means = np.stack([embeddings[assigned == c].mean(axis=0) for c in found])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        self.centroids_ = (means / np.maximum(lengths, 1e-9)).astype(np.float32)
        self.unseen_ = UnseenScore().fit(embeddings)
        return self

    def extended(self, embeddings: np.ndarray, name: str) -> Domains:
        """These domains and one more, where queries of no known domain lie: (n, d) float32."""
        if name in self.names_:
            name = f"{name} {len(self.names_) + 1}"
        mean = embeddings.mean(axis=0)
        wider = Domains()
        wider.names_ = [*self.names_, name]
        wider.centroids_ = np.vstack(
            [self.centroids_, (mean / max(float(np.linalg.norm(mean)), 1e-9))[None]]
        ).astype(np.float32)
        wider.sizes_ = np.append(self.sizes_, len(embeddings))
        wider.unknown_, wider.clusters_ = self.unknown_, self.clusters_
        wider.unseen_ = self.unseen_.extended(embeddings)
        return wider

    def assign(self, embeddings: np.ndarray) -> np.ndarray:
        """(n,) index of each embedding's nearest domain."""
        return np.asarray(np.argmax(embeddings @ self.centroids_.T, axis=1))

    def place(self, embedding: np.ndarray) -> tuple[str, float]:
        """One query's domain and unseen score (1 is the threshold); ``unknown`` beyond it."""
        score = float(self.unseen_.score(embedding[None])[0])
        nearest = self.names_[int(self.assign(embedding[None])[0])]
        return (UNKNOWN if score > 1 else nearest), score

    def save(self, folder: Path) -> None:
        """Write ``domains.json`` and ``domains.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"centroids": self.centroids_, **self.unseen_.arrays}, folder / ARRAYS_FILE)
        config = {
            "format_version": FORMAT_VERSION,
            "names": self.names_,
            "sizes": self.sizes_.tolist(),
            "unknown": self.unknown_,
            "seed": self.clusters_.seed,
            "telling_tags": self.clusters_.names_,
            "tags": {
                tag: [cluster, round(self.clusters_.weights_[tag], 6)]
                for tag, cluster in self.clusters_.cluster_.items()
            },
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Domains:
        """Read what ``save`` wrote. Raises ReleaseError."""
        with reading(str(folder)):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Domains:
        config = read_json(folder / CONFIG_FILE)
        if config.get("format_version") != FORMAT_VERSION:
            raise ReleaseError(
                f"{folder / CONFIG_FILE}: format {config.get('format_version')!r}; this version "
                f"reads {FORMAT_VERSION}; train the release again"
            )
        clusters = TagClusters(len(config["telling_tags"]), config["seed"])
        clusters.names_ = config["telling_tags"]
        clusters.cluster_ = {tag: cluster for tag, (cluster, _) in config["tags"].items()}
        clusters.weights_ = {tag: weight for tag, (_, weight) in config["tags"].items()}
        domains = cls()
        arrays = read_arrays(folder / ARRAYS_FILE)
        domains.centroids_ = arrays.pop("centroids")
        domains.unseen_ = UnseenScore.of(arrays)
        domains.clusters_ = clusters
        domains.names_ = config["names"]
        domains.sizes_ = np.array(config["sizes"])
        domains.unknown_ = config["unknown"]
        shape = (len(domains.names_), domains.unseen_.prototypes_.shape[1])
        if domains.centroids_.shape != shape or domains.sizes_.shape != shape[:1]:
            raise ReleaseError(f"{folder}: its names, sizes, centroids and prototypes do not match")
        if not all(isinstance(name, str) for name in domains.names_):
            raise ReleaseError(f"{folder / CONFIG_FILE}: a domain's name is not text")
        return domains
