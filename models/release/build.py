"""Builds a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from models.domains import domains as domains_module
from models.domains.domains import Domains
from models.encoder import onnx as encoder_module
from models.encoder.onnx import encoder_digest
from models.evaluation.fitted_router import FittedRouter
from models.predictors import predictor as predictors_module
from models.predictors import shrinkage as shrinkage_module
from models.predictors.predictor import Predictor
from models.release.manifest import DataSource, Manifest, Pin, pin, slug
from models.release.probes import PROBE_FILES, save_probes


@dataclass(frozen=True)
class Remarks:
    """What people should know of a release.

    notes: one sentence each.
    flagged: candidate → what is wrong with its predictor.
    """

    notes: Sequence[str] = ()
    flagged: Mapping[str, str] = field(default_factory=dict)


NO_REMARKS: Final = Remarks()


def build_release(
    folder: Path,
    router: FittedRouter,
    domains: Domains,
    probes: Sequence[str],
    remarks: Remarks = NO_REMARKS,
) -> Manifest:
    """Write a router as a release folder around an encoder already at ``folder / "encoder"``.

    The release keeps the catalog's candidates that have a predictor.
    probes: queries whose embeddings and choices are stored, to check a loaded release by.
    """
    digest = encoder_digest(folder / "encoder")
    domains.save(folder / "domains")
    data, whole = router.data, router.data.catalog
    catalog = whole.subset([name for name in whole.names if name in router.names])
    by_name = dict(zip(router.names, router.predictors, strict=True))
    pins = {name: save_predictor(folder, by_name[name]) for name in catalog.names}
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
        created=now(),
        notes=tuple(remarks.notes),
        flagged=dict(remarks.flagged),
    )
    manifest.write(folder)
    return manifest


def _encoder_files(root: Path) -> tuple[str, ...]:
    """What the encoder computes with, and what its build says of it."""
    described = (encoder_module.CARD_FILE, encoder_module.REPORT_FILE)
    return (*encoder_module.FILES, *(f for f in described if (root / "encoder" / f).is_file()))


def now() -> str:
    """When a release is made, as its manifest says."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def save_predictor(root: Path, predictor: Predictor) -> Pin:
    """Write a predictor into a release folder."""
    folder = f"predictors/{slug(predictor.llm)}"
    predictor.save(root / folder)
    name = f"mixllm-predictor-{slug(predictor.llm)}"
    return pin(name, root, folder, predictor.encoder, predictors_module.FILES)
