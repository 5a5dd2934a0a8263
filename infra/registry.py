"""The registry: releases and their parts as MLflow registered models of plain data files."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient, artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from models.digest import digest_file
from models.encoder import CARD_FILE, REPORT_FILE
from models.errors import NoRelease, RegistryError
from models.manifest import MANIFEST_FILE, Manifest, Pin, read_manifest
from models.release_gate import REFUSED

log = logging.getLogger("mixllm.registry")

ROUTER: Final = "mixllm-router"
EXPERIMENT: Final = "mixllm"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
DISABLED_TAG: Final = "disabled"
CANARY_TAG: Final = "canary"
VERDICT_TAG: Final = "gate.verdict"
FORCED_TAG: Final = "gate.forced"
ALIASES: Final = (CHAMPION, CHALLENGER, PREVIOUS)


@dataclass(frozen=True)
class ReleaseRow:
    """One registered release as ``mixllm releases`` shows it."""

    version: str
    aliases: tuple[str, ...]
    created: float
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Canary:
    """A release that answers a share of the live queries. by: keys, whose every query it then
    answers, or traffic, query by query."""

    version: str
    share: float
    by: str = "traffic"


class Registry:
    """MLflow as MixLLM uses it.

    uri: an MLflow server's address or a database's. home: where artifacts lie when the uri is a
    local database, and where downloaded ones are kept.
    """

    def __init__(self, uri: str, home: Path) -> None:
        self.uri = uri
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # It says "waiting" once a version that is ready at once.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # A kept connection that the server closed is tried again, which is no news.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    # --- writing -------------------------------------------------------------------------------

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
        again = self._find(ROUTER, manifest.digest, flow_run)
        if again is not None:
            return str(again.version)
        common = {
            "data_digest": manifest.data.digest,
            "code_revision": code_revision(),
            "flow_run": flow_run,
            "encoder_digest": manifest.encoder.encoder,
        }
        run = self.client.create_run(self._experiment(), run_name=f"release {manifest.digest[:8]}")
        run_id = run.info.run_id
        try:
            for key, value in parameters.items():
                self.client.log_param(run_id, key, value)
            for key, number in metrics.items():
                self.client.log_metric(run_id, key, number)
            self.client.log_artifacts(run_id, str(reports), "evaluation")
            pinned = {
                part.name: part.model_copy(
                    update={"version": self._register_part(run, folder, part, common)}
                )
                for part in manifest.pins
                if part.name != ROUTER
            }
            version = self._register_router(run, folder, manifest, pinned, common, metrics)
            self.client.set_terminated(run_id)
        except BaseException:
            self.client.set_terminated(run_id, status="FAILED")
            raise
        return version

    def log_report(
        self, name: str, files: Iterable[Path], metrics: Mapping[str, float], flow_run: str
    ) -> str:
        """A run of the experiment with a report's files and figures; returns its id."""
        run = self.client.create_run(
            self._experiment(), run_name=name, tags={"flow_run": flow_run, "kind": "report"}
        )
        run_id = str(run.info.run_id)
        for key, number in metrics.items():
            self.client.log_metric(run_id, key, number)
        for file in files:
            self.client.log_artifact(run_id, str(file), "report")
        self.client.set_terminated(run_id)
        return run_id

    def note_evaluation(
        self, version: str, name: str, files: Iterable[Path], tags: Mapping[str, str]
    ) -> None:
        """Put a later evaluation of a release on its version: files on its run, verdict in its tags.

        Raises NoRelease.
        """
        run_id = self._router_version(version).run_id
        for file in files:
            self.client.log_artifact(run_id, str(file), name)
        for key, value in tags.items():
            self.client.set_model_version_tag(ROUTER, version, key, value)

    def remove_file(self, version: str, path: str) -> None:
        """Delete a file of a release's run, if it is there and the artifact store deletes."""
        try:
            run = self.client.get_run(self._router_version(version).run_id).info
            get_artifact_repository(run.artifact_uri, tracking_uri=self.uri).delete_artifacts(path)
        except (MlflowException, NoRelease, NotImplementedError, OSError) as error:
            log.info("%s of release %s stays: %s", path, version, error)

    def artifact_page(self, version: str, path: str) -> str | None:
        """Where MLflow's pages show a file of a release's run; None where no server runs."""
        if not self.uri.startswith("http"):
            return None
        run = self.client.get_run(self._router_version(version).run_id).info
        return f"{self.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"

    def _register_part(self, run: Any, root: Path, part: Pin, tags: Mapping[str, str]) -> str:
        known = self._find(part.name, part.digest)
        if known is not None:
            return str(known.version)
        folder = root / part.folder
        told = {**tags, **figures(folder)}
        return self._add_version(run, part.name, folder, part.folder, part.digest, told)

    def _register_router(
        self,
        run: Any,
        folder: Path,
        manifest: Manifest,
        pinned: Mapping[str, Pin],
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
    ) -> str:
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
                shutil.copytree(folder / part.folder, root / part.folder)
            final.write(root)
            shown = {f"metric.{key}": f"{value:.4f}" for key, value in metrics.items()}
            manifest_digest = digest_file(root / MANIFEST_FILE)
            return self._add_version(
                run,
                ROUTER,
                root,
                "release",
                final.digest,
                {**tags, **shown, "manifest_sha256": manifest_digest},
            )

    def _add_version(
        self,
        run: Any,
        name: str,
        folder: Path,
        path: str,
        digest: str,
        tags: Mapping[str, str],
    ) -> str:
        self.client.log_artifacts(run.info.run_id, str(folder), path)
        try:
            self.client.get_registered_model(name)
        except MlflowException:
            self.client.create_registered_model(name)
        card = folder / CARD_FILE
        version = self.client.create_model_version(
            name,
            source=f"{run.info.artifact_uri}/{path}",
            run_id=run.info.run_id,
            tags={"digest": digest, **tags},
            description=card.read_text() if card.is_file() else None,
        )
        return str(version.version)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:")
        location = (self.home / "artifacts").as_uri() if local else None
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))

    def _find(self, name: str, digest: str, flow_run: str | None = None) -> ModelVersion | None:
        """The newest version of a registered model with these files (of that flow run)."""
        versions = self.client.search_model_versions(
            f"name = '{name}'", max_results=1000, order_by=["version_number DESC"]
        )
        for version in versions:
            same_run = flow_run is None or version.tags.get("flow_run") == flow_run
            if version.tags.get("digest") == digest and same_run:
                return version
        return None

    # --- promotion -----------------------------------------------------------------------------

    def alias(self, alias: str) -> str | None:
        """The router version that an alias names, or None."""
        try:
            return str(self.client.get_model_version_by_alias(ROUTER, alias).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise RegistryError(f"MLflow at {self.uri}: {error}") from error

    def champion(self) -> str:
        """The champion's version. Raises NoRelease."""
        found = self.alias(CHAMPION)
        if found is None:
            raise NoRelease("no release is champion yet: mixllm train --data DIR --promote")
        return found

    def promote(self, version: str) -> None:
        """Make a release champion; the champion of now becomes previous. Raises NoRelease."""
        self._require(version)
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
        self._require(version)
        self.client.set_registered_model_alias(ROUTER, CHALLENGER, version)

    def rollback(self) -> str:
        """Make the previous champion champion again; returns its version. Raises NoRelease."""
        previous = self.alias(PREVIOUS)
        if previous is None:
            raise NoRelease("no release was champion before this one; see: mixllm releases")
        self.force(previous)  # whatever it was judged since, against the one that is left
        self.promote(previous)
        return previous

    def _require(self, version: str) -> None:
        try:
            self.client.get_model_version(ROUTER, version)
        except MlflowException as error:
            known = ", ".join(row.version for row in self.releases()) or "none yet"
            raise NoRelease(f"no release {version!r}; known: {known}") from error

    def releases(self) -> list[ReleaseRow]:
        """Every registered release, the newest first."""
        versions = self.client.search_model_versions(
            f"name = '{ROUTER}'", max_results=1000, order_by=["version_number DESC"]
        )
        by_alias = {alias: self.alias(alias) for alias in ALIASES} if versions else {}
        return [
            ReleaseRow(
                version=str(v.version),
                aliases=tuple(a for a, at in by_alias.items() if at == str(v.version)),
                created=v.creation_timestamp / 1000,
                tags=v.tags,
            )
            for v in versions
        ]

    def tags(self, version: str) -> Mapping[str, str]:
        """A release's tags. Raises NoRelease."""
        found: Mapping[str, str] = self._router_version(version).tags
        return found

    def force(self, version: str) -> None:
        """Note that people want this release whatever its gate says. Raises NoRelease."""
        self._require(version)
        self.client.set_model_version_tag(ROUTER, version, FORCED_TAG, "true")

    def refused(self, version: str) -> str | None:
        """Why the gate refuses a release, if it does and nobody forced it. Raises NoRelease."""
        tags = self.tags(version)
        if tags.get(VERDICT_TAG) != REFUSED or tags.get(FORCED_TAG) == "true":
            return None
        return tags.get("gate.why", "its gate refused it")

    def canary(self) -> Canary | None:
        """What share of whom the challenger answers, if any."""
        try:
            told = self.client.get_registered_model(ROUTER).tags.get(CANARY_TAG)
        except MlflowException:
            return None
        return Canary(**json.loads(told)) if told else None

    def set_canary(self, canary: Canary | None) -> None:
        """Raises NoRelease before the first release."""
        told = json.dumps(asdict(canary)) if canary is not None else ""
        try:
            self.client.set_registered_model_tag(ROUTER, CANARY_TAG, told)
        except MlflowException as error:
            raise NoRelease(f"no release is registered yet: {error}") from error

    def disabled(self) -> frozenset[str]:
        """Candidates that nobody gets, whatever the release."""
        try:
            tags = self.client.get_registered_model(ROUTER).tags
        except MlflowException:
            return frozenset()
        return frozenset(json.loads(tags.get(DISABLED_TAG, "[]")))

    def set_disabled(self, names: Iterable[str]) -> None:
        """Replace the disabled candidates. Raises NoRelease before the first release."""
        try:
            self.client.set_registered_model_tag(ROUTER, DISABLED_TAG, json.dumps(sorted(names)))
        except MlflowException as error:
            raise NoRelease(f"no release is registered yet: {error}") from error

    # --- reading -------------------------------------------------------------------------------

    def fetch(self, version: str) -> Path:
        """A release's folder on this machine, downloaded and verified; parts are kept by digest.

        Raises NoRelease, RegistryError, DigestMismatch.
        """
        folder = self.home / "releases" / version
        wanted = self._router_version(version).tags.get("manifest_sha256")
        if (folder / MANIFEST_FILE).is_file():
            if wanted == digest_file(folder / MANIFEST_FILE):
                return folder
            shutil.rmtree(folder)  # the registry was replaced: this is another release's copy
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
            root = Path(name) / version
            self._download(ROUTER, version, root)
            manifest = read_manifest(root)
            for part in manifest.pins:
                if part.name != ROUTER:
                    kept = self._fetch_part(part)
                    shutil.copytree(kept, root / part.folder, copy_function=os.link)
                part.verify(root)
            try:
                os.replace(root, folder)
            except OSError:  # another process has just put the same release there
                if not (folder / MANIFEST_FILE).is_file():
                    raise
        return folder

    def _fetch_part(self, part: Pin) -> Path:
        kept = self.home / "parts" / part.digest
        if not kept.is_dir():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as name:
                root = Path(name) / "part"
                self._download(part.name, part.version, root)
                part.model_copy(update={"folder": "."}).verify(root)
                try:
                    os.replace(root, kept)
                except OSError:
                    if not kept.is_dir():
                        raise
        return kept

    def _router_version(self, version: str) -> ModelVersion:
        try:
            return self.client.get_model_version(ROUTER, version)
        except MlflowException as error:
            raise NoRelease(f"no release {version!r} in MLflow at {self.uri}") from error

    def _download(self, name: str, version: str, target: Path) -> None:
        try:
            source = self.client.get_model_version_download_uri(name, version)
            raw = target.parent / "raw"
            raw.mkdir(parents=True)
            local = artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(raw), tracking_uri=self.uri
            )
            os.replace(local, target)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"cannot download {name} version {version} from {self.uri}: {error}"
            ) from error


def figures(folder: Path) -> dict[str, str]:
    """What an encoder's build measured, as tags; nothing for any other part."""
    report = folder / REPORT_FILE
    if not report.is_file():
        return {}
    tags: dict[str, str] = json.loads(report.read_text())["tags"]
    return tags


def code_revision() -> str:
    """The commit of the code that runs, or the version where there is no repository."""
    root = Path(__file__).resolve().parent.parent
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import version

        return f"mixllm {version('mixllm')}"
    return found.stdout.strip()
