"""Changes one part of a release; every other part stays. Each function writes a new release folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.catalog import Candidate, Catalog
from models.decision.estimates import DecisionDefaults
from models.domains import domains as domains_module
from models.domains.domains import Domains
from models.errors import ReleaseError, UnknownCandidate, nearest
from models.files.release_files import read_json
from models.predictors.compiled import CompiledPredictors
from models.predictors.predictor import Predictor
from models.predictors.shrinkage import Shrinkage
from models.release.build import now, save_predictor
from models.release.manifest import Manifest, pin, read_manifest
from models.release.probes import PROBE_FILES, save_probes


def put_candidate(
    source: Path, folder: Path, predictor: Predictor, entry: Candidate, flagged: str | None = None
) -> Manifest:
    """Add a candidate, the last in the catalog, or replace the one of that name.

    predictor: fitted on the release's encoder.
    flagged: in what the predictor is worse than it should be.
    Raises ReleaseError.
    """
    old = _copied(source, folder)
    flags = {name: flag for name, flag in old.flagged.items() if name != entry.name}
    if flagged:
        flags[entry.name] = flagged
    entries = {known.name: known for known in old.catalog.llms} | {entry.name: entry}
    pins = {**old.predictors, entry.name: save_predictor(folder, predictor)}
    catalog = _catalog(old, list(entries.values()))
    return _write(folder, old, {"catalog": catalog, "predictors": pins, "flagged": flags})


def remove_candidate(source: Path, folder: Path, name: str) -> Manifest:
    """Raises ReleaseError, UnknownCandidate."""
    old = read_manifest(source)
    if name not in old.catalog.names:
        raise UnknownCandidate(f"no candidate {name!r}; {nearest(name, old.catalog.names)}")
    if len(old.catalog.llms) == 1:
        raise ReleaseError(f"{name!r} is the only candidate; a release needs one")
    _copied(source, folder)
    shutil.rmtree(folder / old.predictors[name].folder)
    pins = {kept: part for kept, part in old.predictors.items() if kept != name}
    flags = {kept: flag for kept, flag in old.flagged.items() if kept != name}
    catalog = _catalog(old, [entry for entry in old.catalog.llms if entry.name != name])
    return _write(folder, old, {"catalog": catalog, "predictors": pins, "flagged": flags})


def replace_domains(source: Path, folder: Path, domains: Domains) -> Manifest:
    """Raises ReleaseError."""
    old = _copied(source, folder)
    domains.save(folder / "domains")
    digest = old.encoder.encoder
    part = pin(old.domains.name, folder, "domains", digest, domains_module.FILES)
    return _write(folder, old, {"domains": part})


def replace_defaults(source: Path, folder: Path, defaults: DecisionDefaults) -> Manifest:
    """Raises ReleaseError."""
    return _write(folder, _copied(source, folder), {"defaults": defaults})


def _copied(source: Path, folder: Path) -> Manifest:
    """The manifest of the source, whose files are copied."""
    old = read_manifest(source)
    shutil.copytree(source, folder)
    return old


def _catalog(old: Manifest, entries: Sequence[Candidate]) -> Catalog:
    names = {entry.name for entry in entries}
    default = old.catalog.default if old.catalog.default in names else None
    return Catalog(llms=tuple(entries), default=default)


def _write(folder: Path, old: Manifest, changes: Mapping[str, Any]) -> Manifest:
    """Route the probe queries anew, and write the manifest."""
    manifest = old.model_copy(update={**changes, "created": now()})
    catalog, pins = manifest.catalog, manifest.predictors
    predictors = [Predictor.load(folder / pins[name].folder) for name in catalog.names]
    shrinkage = Shrinkage.load(folder / old.shrinkage.folder)
    queries = read_json(folder / old.probes.folder / PROBE_FILES[0])["queries"]
    compiled = CompiledPredictors(predictors, catalog, shrinkage)
    save_probes(folder, compiled, manifest.defaults, queries)
    digest = old.encoder.encoder
    probes = pin(old.probes.name, folder, old.probes.folder, digest, PROBE_FILES)
    manifest = manifest.model_copy(update={"probes": probes})
    manifest.write(folder)
    return manifest
