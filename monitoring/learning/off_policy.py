"""Off-policy evaluation of releases from the log, noted on the release's version."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from infra.registry.registry import Registry
from models.errors import ReleaseError
from models.learning.off_policy import compare_policies, ope_table
from models.release.manifest import read_manifest
from models.release.release import compiled_release
from monitoring.learning.learner import newest_good
from monitoring.learning.logged_votes import logged_votes, read_votes


def compare_releases(
    registry: Registry, engine: Engine, version: str, against: str, after_vote: int = 0
) -> dict[str, Any] | None:
    """What one release would have earned against another; None where no vote says anything of it.

    after_vote: only votes after this position count.

    The report and the verdict go to the first one's version in MLflow.
    Raises NoRelease, and ReleaseError where the releases have different encoders.
    """
    folders = [registry.fetch(version), registry.fetch(against)]
    manifests = [read_manifest(folder) for folder in folders]
    if manifests[0].encoder.encoder != manifests[1].encoder.encoder:
        raise ReleaseError(
            f"releases {version} and {against} have different encoders, so the logged embeddings "
            "fit only one of them"
        )
    stored = newest_good(engine, manifests[1].digest)
    held = stored.state.voters.held if stored else []
    votes = read_votes(engine, manifests[1], held, after=after_vote)
    if not len(votes):
        return None
    pairs = [(compiled_release(f), m.defaults) for f, m in zip(folders, manifests, strict=True)]
    log, targets, names, unusable = logged_votes(votes, pairs)
    if not len(log):
        return None
    first, other = f"release {version}", f"release {against}"
    policies = dict(zip((first, other), targets, strict=True))
    comparison = compare_policies(log, policies, first, other)
    comparison["best_single"] = names[comparison["best_single"]]
    left_out = {**votes.left_out, "another LLM than the chosen answered": unusable}
    comparison["left_out"] = {reason: count for reason, count in left_out.items() if count}
    note(registry, version, against, comparison)
    return comparison


def note(registry: Registry, version: str, against: str, comparison: dict[str, Any]) -> None:
    """Keep the report as an artifact and the verdict in the version's tags."""
    gain = comparison["gain"]
    tags = {
        "ope.verdict": comparison["verdict"],
        "ope.against": against,
        "ope.gain": f"{gain['value']:.4f} [{gain['low']:.4f}, {gain['high']:.4f}]",
    }
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "ope.json", Path(name) / "ope.md"]
        files[0].write_text(json.dumps(comparison, indent=1) + "\n")
        files[1].write_text(ope_table(comparison) + "\n")
        registry.note_evaluation(version, "ope", files, tags)
