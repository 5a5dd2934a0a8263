"""Builds a release, and changes one part of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from models.catalog import Candidate, Catalog
from models.decision.estimates import DecisionDefaults
from models.domains import domains as domains_module
from models.domains.domains import Domains
from models.encoder import onnx as encoder_module
from models.encoder.onnx import encoder_digest
from models.errors import ReleaseError, UnknownCandidate, nearest
from models.evaluation.fitted_router import FittedRouter
from models.files.release_files import read_json
from models.predictors import predictor as predictors_module
from models.predictors import shrinkage as shrinkage_module
from models.predictors.compiled import CompiledPredictors
from models.predictors.predictor import Predictor
from models.predictors.shrinkage import Shrinkage
from models.release.manifest import DataSource, Manifest, Pin, pin, read_manifest, slug
from models.release.probes import PROBE_FILES, save_probes


def build_release(
    folder: Path,
    router: FittedRouter,
    domains: Domains,
    probes: Sequence[str],
    notes: Sequence[str] = (),
    flagged: Mapping[str, str] | None = None,
) -> Manifest:
    """Write a router as a release folder around an encoder already at ``folder / "encoder"``.

    The release keeps the catalog's candidates that have a predictor.
    probes: queries whose embeddings and choices are stored, to check a loaded release by.
    flagged: candidate → what its predictor was found wanting in.
    """
    digest = encoder_digest(folder / "encoder")
    domains.save(folder / "domains")
    data, whole = router.data, router.data.catalog
    catalog = whole.subset([name for name in whole.names if name in router.names])
    by_name = dict(zip(router.names, router.predictors, strict=True))
    pins = {name: _save_predictor(folder, by_name[name]) for name in catalog.names}
    router.shrinkage.save(folder / "shrinkage")
    compiled, defaults = router.compiled(catalog.names, catalog), router.defaults()
    save_probes(folder, compiled, defaults, probes)
    manifest = Manifest(
        encoder=pin("mixllm-encoder", folder, "encoder", digest, _encoder_files(folder)),
        domains=pin("mixllm-domains", folder, "domains", digest, domains_module.FILES),
        probes=pin("mixllm-router", folder, "probes", digest, PROBE_FILES),
        shrinkage=pin("mixllm-router", folder, "shrinkage", digest, shrinkage_module.FILES),
        predictors=pins,
        catalog=catalog,
        defaults=defaults,
        data=DataSource(name=data.name, digest=data.digest, queries=len(data.queries)),
        created=_now(),
        notes=tuple(notes),
        flagged=dict(flagged or {}),
    )
    manifest.write(folder)
    return manifest


def change_release(
    source: Path,
    folder: Path,
    put: tuple[Predictor, Candidate] | None = None,
    remove: str | None = None,
    flagged: str | None = None,
    domains: Domains | None = None,
    defaults: DecisionDefaults | None = None,
) -> Manifest:
    """Write a release that differs from ``source`` in one candidate, in its domains or in its decision
    defaults; every other part stays.

    put: a predictor fitted on the release's encoder, and its catalog entry; takes the place of the
    candidate of that name, or comes last. remove: a candidate's name.
    flagged: what the predictor put in was found wanting in.
    Raises ReleaseError, UnknownCandidate.
    """
    old = read_manifest(source)
    shutil.copytree(source, folder)
    entries = {entry.name: entry for entry in old.catalog.llms}
    pins = dict(old.predictors)
    changed = remove if put is None else put[1].name
    flags = {name: flag for name, flag in old.flagged.items() if name != changed}
    if put is not None:
        predictor, entry = put
        flags |= {entry.name: flagged} if flagged else {}
        entries[entry.name] = entry
        pins[entry.name] = _save_predictor(folder, predictor)
    if remove is not None:
        if remove not in entries:
            raise UnknownCandidate(f"no candidate {remove!r}; {nearest(remove, entries)}")
        if len(entries) == 1:
            raise ReleaseError(f"{remove!r} is the only candidate; a release needs one")
        del entries[remove]
        shutil.rmtree(folder / pins.pop(remove).folder)
    default = old.catalog.default if old.catalog.default in entries else None
    catalog = Catalog(llms=tuple(entries.values()), default=default)
    predictors = [Predictor.load(folder / pins[name].folder) for name in catalog.names]
    queries = read_json(folder / old.probes.folder / PROBE_FILES[0])["queries"]
    shrinkage = Shrinkage.load(folder / old.shrinkage.folder)
    compiled = CompiledPredictors(predictors, catalog, shrinkage)
    save_probes(folder, compiled, defaults or old.defaults, queries)
    probes = pin(old.probes.name, folder, old.probes.folder, old.encoder.encoder, PROBE_FILES)
    changes: dict[str, object] = {}
    if domains is not None:
        domains.save(folder / "domains")
        digest = old.encoder.encoder
        changes["domains"] = pin(old.domains.name, folder, "domains", digest, domains_module.FILES)
    manifest = old.model_copy(
        update={
            **changes,
            "defaults": defaults or old.defaults,
            "catalog": catalog,
            "predictors": pins,
            "probes": probes,
            "created": _now(),
            "flagged": flags,
        }
    )
    manifest.write(folder)
    return manifest


def _encoder_files(root: Path) -> tuple[str, ...]:
    """What the encoder computes with, and what its build says of it."""
    told = (encoder_module.CARD_FILE, encoder_module.REPORT_FILE)
    return (*encoder_module.FILES, *(f for f in told if (root / "encoder" / f).is_file()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _save_predictor(root: Path, predictor: Predictor) -> Pin:
    folder = f"predictors/{slug(predictor.llm)}"
    predictor.save(root / folder)
    name = f"mixllm-predictor-{slug(predictor.llm)}"
    return pin(name, root, folder, predictor.encoder, predictors_module.FILES)
