"""The parts of the releases that decided: they show which votes can teach another release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, select

from models.release.manifest import Manifest
from monitoring.store.rows import insert_new
from monitoring.store.tables import releases


@dataclass(frozen=True)
class Parts:
    """What a release is made of.

    encoder: its digest.
    predictors: candidate → its predictor's digest.
    """

    encoder: str
    predictors: Mapping[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> Parts:
        return cls(manifest.encoder.encoder, {n: p.digest for n, p in manifest.predictors.items()})


def release_row(manifest: Manifest, version: str) -> dict[str, Any]:
    """A JSON-able row."""
    return {
        "digest": manifest.digest,
        "version": version,
        **vars(Parts.of(manifest)),
        "first_seen_at": datetime.now(UTC).isoformat(),
    }


def insert_releases(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; a release that is known stays as it is."""
    insert_new(engine, releases, rows)


def known_releases(connection: Connection) -> dict[str, Parts]:
    """Digest → parts."""
    rows = connection.execute(select(releases)).mappings()
    return {row["digest"]: Parts(row["encoder"], row["predictors"]) for row in rows}
