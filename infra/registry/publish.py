"""Publishing a release: each part, and the release itself, becomes a version of a registered model."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from infra.registry.records import ROUTER
from infra.registry.versions import Versions
from models.digest import digest_file
from models.encoder.onnx import CARD_FILE, REPORT_FILE
from models.release.manifest import MANIFEST_FILE, Manifest, Pin


@dataclass(frozen=True)
class Publication:
    """A release's files and the MLflow run that they are logged on.

    run: an MLflow run.
    folder: the release.
    tags: of every version that is made.
    """

    versions: Versions
    run: Any
    folder: Path
    tags: Mapping[str, str]

    def add_release(self, manifest: Manifest, metrics: Mapping[str, float]) -> str:
        """Register the parts, then the release that pins them; returns its version."""
        pinned = {
            part.name: part.model_copy(update={"version": self._add_part(part)})
            for part in manifest.pins
            if part.name != ROUTER
        }
        final = manifest.model_copy(
            update={
                "encoder": pinned[manifest.encoder.name],
                "domains": pinned[manifest.domains.name],
                "predictors": {llm: pinned[p.name] for llm, p in manifest.predictors.items()},
            }
        )
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for part in (final.probes, final.shrinkage):
                shutil.copytree(self.folder / part.folder, root / part.folder)
            final.write(root)
            shown = {f"metric.{key}": f"{value:.4f}" for key, value in metrics.items()}
            digests = {"digest": final.digest, "manifest_sha256": digest_file(root / MANIFEST_FILE)}
            return self._add_version(ROUTER, root, "release", {**shown, **digests})

    def _add_part(self, part: Pin) -> str:
        """A part's version: the one that has these files already, or a new one."""
        known = self.versions.find(part.name, part.digest)
        if known is not None:
            return str(known.version)
        folder = self.folder / part.folder
        tags = {**figures(folder), "digest": part.digest}
        return self._add_version(part.name, folder, part.folder, tags)

    def _add_version(self, name: str, folder: Path, path: str, tags: Mapping[str, str]) -> str:
        """path: where the folder's files lie on the run."""
        client, run = self.versions.client, self.run.info
        client.log_artifacts(run.run_id, str(folder), path)
        try:
            client.get_registered_model(name)
        except MlflowException:
            client.create_registered_model(name)
        card = folder / CARD_FILE
        version = client.create_model_version(
            name,
            source=f"{run.artifact_uri}/{path}",
            run_id=run.run_id,
            tags={**self.tags, **tags},
            description=card.read_text() if card.is_file() else None,
        )
        return str(version.version)


def figures(folder: Path) -> dict[str, str]:
    """What an encoder's build measured, as tags; nothing for any other part."""
    report = folder / REPORT_FILE
    if not report.is_file():
        return {}
    tags: dict[str, str] = json.loads(report.read_text())["tags"]
    return tags


def code_revision() -> str:
    """The commit of the code that runs, or the version where there is no repository."""
    root = Path(__file__).resolve().parents[2]
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import version

        return f"mixllm {version('mixllm')}"
    return described.stdout.strip()
