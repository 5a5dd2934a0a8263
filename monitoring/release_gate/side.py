"""One of the two releases that are compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from infra.registry.registry import Registry
from models.catalog import Catalog
from models.encoder.inputs import QueryInputs
from models.release.gate.outcomes import choices
from models.release.release import Release


@dataclass(frozen=True)
class Side:
    """A release, loaded, with its folder.

    aiq: as noted when it was registered.
    """

    version: str
    folder: Path
    release: Release
    aiq: float | None

    @classmethod
    def of(cls, registry: Registry, version: str) -> Side:
        folder = registry.fetch(version)
        aiq = registry.tags(version).get("metric.aiq")
        return cls(version, folder, Release.load(folder), float(aiq) if aiq else None)

    @property
    def catalog(self) -> Catalog:
        return self.release.manifest.catalog

    def choices(self, inputs: QueryInputs) -> list[str]:
        """Whom it chooses."""
        return choices(self.release.compiled, self.release.manifest.defaults, inputs)

    def probes(self) -> dict[str, list[str]]:
        """Its stored queries, and the llms that it chose."""
        return self.release.stored_probes(self.folder)[0]

    def seconds(self, query: str) -> float:
        """What routing a query takes."""
        begun = time.perf_counter()
        self.release.route(query)
        return time.perf_counter() - begun

    @property
    def mebibytes(self) -> float:
        """What it holds in memory."""
        encoder = sum(file.stat().st_size for file in (self.folder / "encoder").rglob("*.onnx"))
        return (sum(self.release.compiled.memory) + encoder) / 2**20


def same_encoder(first: Side, second: Side) -> bool:
    return first.release.manifest.encoder.encoder == second.release.manifest.encoder.encoder
