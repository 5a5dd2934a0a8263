"""The registry: releases and their parts as MLflow registered models of plain data files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.registry.download import fetch_release
from infra.registry.publish import Publication, code_revision
from infra.registry.records import (
    CANARY_TAG,
    CHALLENGER,
    CHAMPION,
    DISABLED_TAG,
    FORCED_TAG,
    HISTORY_TAG,
    MAX_TAG,
    PREVIOUS,
    ROUTER,
    SERVING_TAG,
    VERDICT_TAG,
    Canary,
    is_forced,
    verdicts_of,
)
from infra.registry.versions import Versions
from infra.settings import Settings
from models.errors import MixLLMError, NoRelease, RegistryError
from models.release.gate.checks import REFUSED
from models.release.manifest import read_manifest

log = logging.getLogger("mixllm.registry")


class Registry(Versions):
    """MLflow as MixLLM uses it: releases are published, judged, promoted and fetched."""

    @classmethod
    def of(cls, settings: Settings) -> Registry:
        return cls(settings.registry_uri, settings.home / "registry")

    def register_release(
        self,
        folder: Path,
        parameters: Mapping[str, Any],
        metrics: Mapping[str, float],
        reports: Path,
        flow_run: str,
    ) -> str:
        """Register a release folder and each of its parts; returns the router's new version.

        reports: a folder of files, logged on the run as ``evaluation``.
        A part whose files are registered already keeps its version; a release that this flow run
        registered already, before it was retried, keeps its own.
        """
        manifest = read_manifest(folder)
        again = self.find(ROUTER, manifest.digest, flow_run)
        if again is not None:
            return str(again.version)
        tags = {
            "data_digest": manifest.data.digest,
            "code_revision": code_revision(),
            "flow_run": flow_run,
            "encoder_digest": manifest.encoder.encoder,
        }
        run = self.client.create_run(self.experiment(), run_name=f"release {manifest.digest[:8]}")
        run_id = run.info.run_id
        publication = Publication(self, run, folder, tags)
        try:
            for key, value in parameters.items():
                self.client.log_param(run_id, key, value)
            for key, number in metrics.items():
                self.client.log_metric(run_id, key, number)
            self.client.log_artifacts(run_id, str(reports), "evaluation")
            version = publication.add_release(manifest, metrics)
            self.client.set_terminated(run_id)
        except BaseException:
            self.client.set_terminated(run_id, status="FAILED")
            raise
        return version

    def fetch(self, version: str) -> Path:
        """A release's folder on this machine, downloaded and verified.

        Raises NoRelease, RegistryError, DigestMismatch.
        """
        return fetch_release(self, version)

    def log_report(
        self, name: str, files: Iterable[Path], metrics: Mapping[str, float], flow_run: str
    ) -> str:
        """A run of the experiment with a report's files and figures; returns its id."""
        run = self.client.create_run(
            self.experiment(), run_name=name, tags={"flow_run": flow_run, "kind": "report"}
        )
        run_id = str(run.info.run_id)
        for key, number in metrics.items():
            self.client.log_metric(run_id, key, number)
        for file in files:
            self.client.log_artifact(run_id, str(file), "report")
        self.client.set_terminated(run_id)
        return run_id

    def artifact_page(self, version: str, path: str) -> str | None:
        """Where MLflow's pages show a file of a release's run; None where no server runs."""
        if not self.uri.startswith("http"):
            return None
        run = self.client.get_run(self.router_version(version).run_id).info
        page = f"experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"
        return f"{self.address}/#/{page}"

    def remove_file(self, version: str, path: str) -> None:
        """Delete a file of a release's run, if it is there and the artifact store deletes."""
        try:
            run = self.client.get_run(self.router_version(version).run_id).info
            get_artifact_repository(run.artifact_uri, tracking_uri=self.uri).delete_artifacts(path)
        except (MlflowException, MixLLMError, NotImplementedError, OSError) as error:
            log.info("%s of release %s stays: %s", path, version, error)

    # --- promotion -----------------------------------------------------------------------------

    def promote(self, version: str) -> None:
        """Make a release champion; the champion of now becomes previous. Raises NoRelease."""
        self.router_version(version)
        current = self.alias(CHAMPION)
        if current == version:
            return
        self.client.set_registered_model_alias(ROUTER, CHAMPION, version)
        self.note_swap(current, version)
        if self.alias(CHALLENGER) == version:
            self.client.delete_registered_model_alias(ROUTER, CHALLENGER)

    def note_swap(self, old: str | None, new: str) -> None:
        """Remember what was champion before; also after a promotion in the MLflow UI."""
        if old is not None and old != new and self.alias(PREVIOUS) != old:
            self.client.set_registered_model_alias(ROUTER, PREVIOUS, old)

    def challenge(self, version: str) -> None:
        """Make a release challenger. Raises NoRelease."""
        self.router_version(version)
        self.client.set_registered_model_alias(ROUTER, CHALLENGER, version)

    def rollback(self) -> str:
        """Make the previous champion champion again; returns its version. Raises NoRelease."""
        previous = self.alias(PREVIOUS)
        if previous is None:
            raise NoRelease("no release was champion before this one; see: mixllm releases")
        self.force(previous)  # whatever it was judged since, against the one that is left
        self.promote(previous)
        return previous

    def force(self, version: str) -> None:
        """Note that people want this release whatever its verdict so far says; a later verdict counts
        again. Raises NoRelease."""
        number = self.tags(version).get("gate.number", "0")
        self.client.set_model_version_tag(ROUTER, version, FORCED_TAG, number)

    def refused(self, version: str) -> str | None:
        """Why the gate refuses a release, if it does and nobody forced it. Raises NoRelease."""
        tags = self.tags(version)
        if tags.get(VERDICT_TAG) != REFUSED or is_forced(tags):
            return None
        return tags.get("gate.why", "its gate refused it")

    def verdicts(self, version: str) -> list[dict[str, Any]]:
        """Every verdict of the gate on a release, the oldest first; the last one counts.

        Raises NoRelease.
        """
        return verdicts_of(self.tags(version))

    def add_verdict(
        self, version: str, record: Mapping[str, Any], files: Iterable[Path], figures: str
    ) -> None:
        """Add a verdict to a release's history: files on its run, a tag of its own, and the tags of
        the verdict that counts.

        record: number, at, verdict, measured, failed, against, reason, changed, data, inputs.
        Raises NoRelease.
        """
        name = f"{int(record['number']):03d}"
        kept = {**record, "reason": record["reason"][:1500], "changed": record["changed"][:500]}
        tags = {
            f"{HISTORY_TAG}{name}": json.dumps(kept, ensure_ascii=True),
            VERDICT_TAG: record["verdict"],
            "gate.number": str(record["number"]),
            "gate.against": record["against"] or "none",
            "gate.data": str(record["data"] or "none")[:MAX_TAG],
            "gate.why": record["reason"][:MAX_TAG],
            "gate.figures": figures[:MAX_TAG],
        }
        self.note_evaluation(version, f"gate/{name}", files, tags)

    def note_evaluation(
        self, version: str, name: str, files: Iterable[Path], tags: Mapping[str, str]
    ) -> None:
        """Put a later evaluation of a release on its version: files on its run, verdict in its tags.

        Raises NoRelease.
        """
        run_id = self.router_version(version).run_id
        for file in files:
            self.client.log_artifact(run_id, str(file), name)
        for key, value in tags.items():
            self.client.set_model_version_tag(ROUTER, version, key, value)

    def note_serving(self, version: str, refused: str | None) -> None:
        """Note on a release why the service does not load it; None where it does."""
        try:
            known = self.tags(version).get(SERVING_TAG)
            if refused is not None and refused != known:
                self.client.set_model_version_tag(ROUTER, version, SERVING_TAG, refused[:MAX_TAG])
            if refused is None and known is not None:
                self.client.delete_model_version_tag(ROUTER, version, SERVING_TAG)
        except (MlflowException, MixLLMError) as error:
            log.warning("release %s: MLflow does not take the note: %s", version, error)

    # --- what holds for every release ----------------------------------------------------------

    def canary(self) -> Canary | None:
        """What share of whom the challenger answers, if any."""
        text = self.router_tags().get(CANARY_TAG)
        if not text:
            return None
        try:
            return Canary.of(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise RegistryError(f"MLflow's tag {CANARY_TAG} of {ROUTER}: {text[:80]!r}") from error

    def set_canary(self, canary: Canary | None) -> None:
        """Raises NoRelease before the first release."""
        text = json.dumps(asdict(canary)) if canary is not None else ""
        try:
            self.client.set_registered_model_tag(ROUTER, CANARY_TAG, text)
        except MlflowException as error:
            raise NoRelease(f"no release is registered yet: {error}") from error

    def disabled(self) -> frozenset[str]:
        """Candidates that nobody gets, whatever the release."""
        text = self.router_tags().get(DISABLED_TAG) or "[]"
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RegistryError(
                f"MLflow's tag {DISABLED_TAG} of {ROUTER} is no list: {text[:80]!r}"
            )
        return frozenset(names)

    def set_disabled(self, names: Iterable[str]) -> None:
        """Replace the disabled candidates. Raises NoRelease before the first release."""
        try:
            self.client.set_registered_model_tag(ROUTER, DISABLED_TAG, json.dumps(sorted(names)))
        except MlflowException as error:
            raise NoRelease(f"no release is registered yet: {error}") from error
