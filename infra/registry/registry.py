"""The registry: releases and their parts as MLflow registered models of plain data files."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient, artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.addresses import without_login
from infra.registry.mlflow_store import opening
from infra.registry.publish import code_revision, figures
from infra.registry.records import (
    ALIASES,
    CANARY_TAG,
    CHALLENGER,
    CHAMPION,
    DISABLED_TAG,
    EXPERIMENT,
    FORCED_TAG,
    HISTORY_TAG,
    MAX_TAG,
    PREVIOUS,
    ROUTER,
    SERVING_TAG,
    VERDICT_TAG,
    Canary,
    ReleaseRow,
    is_forced,
    verdicts_of,
)
from infra.settings import Settings
from models.digest import digest_file
from models.encoder.onnx import CARD_FILE
from models.errors import DigestMismatch, MixLLMError, NoRelease, RegistryError, ReleaseError
from models.files.release_files import MOST_BYTES, NEEDED, check_tree
from models.release.gate.checks import REFUSED
from models.release.manifest import MANIFEST_FILE, Manifest, Pin, read_manifest

log = logging.getLogger("mixllm.registry")
# What lies with a release itself; its other parts are registered models of their own.
ROUTER_FILES: Final = {
    MANIFEST_FILE, *(f"{part}/{file}" for part in ("probes", "shrinkage") for file in NEEDED[part]),
}  # fmt: skip
# What MLflow says of what is not there; anything else says nothing about it.
ABSENT: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Registry:
    """MLflow as MixLLM uses it.

    uri: an MLflow server's address or a database's. home: where artifacts lie when the uri is a
    local database, and where downloaded ones are kept.
    """

    @classmethod
    def of(cls, settings: Settings) -> Registry:
        return cls(settings.registry_uri, settings.home / "registry")

    def __init__(self, uri: str, home: Path) -> None:
        self.uri = uri
        self.address = without_login(uri)  # for messages and links
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        # A server that hangs must not hold a poll for the minutes that MLflow would wait.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # It says "waiting" once a version that is ready at once.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # A kept connection that the server closed is tried again, which is no news.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        with opening(uri, home):
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
        except (MlflowException, MixLLMError, NotImplementedError, OSError) as error:
            log.info("%s of release %s stays: %s", path, version, error)

    def artifact_page(self, version: str, path: str) -> str | None:
        """Where MLflow's pages show a file of a release's run; None where no server runs."""
        if not self.uri.startswith("http"):
            return None
        run = self.client.get_run(self._router_version(version).run_id).info
        page = f"experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"
        return f"{self.address}/#/{page}"

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
        local = self.uri.startswith("sqlite")
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
            if error.error_code in ABSENT:
                return None
            raise RegistryError(f"MLflow at {self.address}: {error}") from error

    def champion(self) -> str:
        """The champion's version. Raises NoRelease."""
        found = self.alias(CHAMPION)
        if found is None:
            raise NoRelease("no release is champion yet: mixllm train --data DIR --promote")
        return found

    def promote(self, version: str) -> None:
        """Make a release champion; the champion of now becomes previous. Raises NoRelease."""
        self._router_version(version)
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
        self._router_version(version)
        self.client.set_registered_model_alias(ROUTER, CHALLENGER, version)

    def rollback(self) -> str:
        """Make the previous champion champion again; returns its version. Raises NoRelease."""
        previous = self.alias(PREVIOUS)
        if previous is None:
            raise NoRelease("no release was champion before this one; see: mixllm releases")
        self.force(previous)  # whatever it was judged since, against the one that is left
        self.promote(previous)
        return previous

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

    def canary(self) -> Canary | None:
        """What share of whom the challenger answers, if any."""
        text = self._router_tags().get(CANARY_TAG)
        if not text:
            return None
        try:
            return Canary.of(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise RegistryError(f"MLflow's tag {CANARY_TAG} of {ROUTER}: {text[:80]!r}") from error

    def set_canary(self, canary: Canary | None) -> None:
        """Raises NoRelease before the first release."""
        told = json.dumps(asdict(canary)) if canary is not None else ""
        try:
            self.client.set_registered_model_tag(ROUTER, CANARY_TAG, told)
        except MlflowException as error:
            raise NoRelease(f"no release is registered yet: {error}") from error

    def disabled(self) -> frozenset[str]:
        """Candidates that nobody gets, whatever the release."""
        text = self._router_tags().get(DISABLED_TAG) or "[]"
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RegistryError(
                f"MLflow's tag {DISABLED_TAG} of {ROUTER} is no list: {text[:80]!r}"
            )
        return frozenset(names)

    def _router_tags(self) -> Mapping[str, str]:
        """The tags of all releases together; none before the first one. Raises RegistryError."""
        try:
            tags: Mapping[str, str] = self.client.get_registered_model(ROUTER).tags
        except MlflowException as error:
            if error.error_code in ABSENT:
                return {}
            raise RegistryError(f"MLflow at {self.address}: {error}") from error
        return tags

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
        if not version.isascii() or not version.isdecimal():
            raise NoRelease(f"no release {version!r}: a version is a number; see: mixllm releases")
        folder = self.home / "releases" / version
        wanted = self._router_version(version).tags.get("manifest_sha256")
        if wanted is None:
            raise ReleaseError(f"release {version} has no tag manifest_sha256 in MLflow")
        if (folder / MANIFEST_FILE).is_file() and wanted == digest_file(folder / MANIFEST_FILE):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
            root = Path(name) / version
            self._download(ROUTER, version, root, ROUTER_FILES)
            check_tree(root, ROUTER_FILES)
            digest = digest_file(root / MANIFEST_FILE) if (root / MANIFEST_FILE).is_file() else None
            if digest != wanted:
                raise DigestMismatch(
                    f"release {version}: {MANIFEST_FILE} has sha256 {digest or 'no file'}, its tag "
                    f"manifest_sha256 says {wanted[:64]}"
                )
            manifest = read_manifest(root)
            for part in manifest.pins:
                if part.name != ROUTER:
                    kept = self._fetch_part(part)
                    shutil.copytree(kept, root / part.folder, copy_function=os.link)
                part.verify(root)
            if folder.is_dir():  # the registry was replaced: this is another release's copy
                os.replace(folder, Path(name) / "old")
            try:
                os.replace(root, folder)
            except OSError:  # another process has just put the same release there
                if not (folder / MANIFEST_FILE).is_file():
                    raise
        return folder

    def _fetch_part(self, part: Pin) -> Path:
        kept = self.home / "parts" / part.digest
        here = part.model_copy(update={"folder": "."})
        if kept.is_dir():
            try:
                check_tree(kept, {*part.files})
                here.verify(kept)
            except ReleaseError as error:
                log.warning("%s; it is downloaded again", error)
                shutil.rmtree(kept)
        if not kept.is_dir():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as name:
                root = Path(name) / "part"
                self._download(part.name, part.version, root, {*part.files})
                check_tree(root, {*part.files})
                here.verify(root)
                try:
                    os.replace(root, kept)
                except OSError:
                    if not kept.is_dir():
                        raise
        return kept

    def _router_version(self, version: str) -> ModelVersion:
        """Raises NoRelease, naming the releases there are."""
        try:
            return self.client.get_model_version(ROUTER, version)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise RegistryError(f"MLflow at {self.address}: {error}") from error
            known = ", ".join(row.version for row in self.releases()) or "none yet"
            raise NoRelease(f"no release {version!r} in MLflow; known: {known}") from error

    def _check_listing(self, source: str, allowed: set[str]) -> None:
        """Raises ReleaseError where a store lists other files than these, or larger ones."""
        store = get_artifact_repository(source, tracking_uri=self.uri)
        local = getattr(store, "artifact_dir", None)
        if local is not None and Path(local).is_dir():
            check_tree(Path(local), allowed)
            return
        folders = {name.rpartition("/")[0] for name in allowed} - {""}
        for folder in (None, *sorted(folders)):
            for entry in store.list_artifacts(folder):
                if entry.path not in (folders if entry.is_dir else allowed):
                    raise ReleaseError(f"{source}: a release has no such file: {entry.path[:80]!r}")
                most = MOST_BYTES[entry.path.rpartition("/")[2]] if not entry.is_dir else 0
                if not entry.is_dir and (entry.file_size or 0) > most:
                    raise ReleaseError(
                        f"{source}: {entry.path} has {entry.file_size} bytes, {most} at most"
                    )

    def _download(self, name: str, version: str, target: Path, allowed: set[str]) -> None:
        """allowed: the files that there may be; nothing is downloaded where there are others."""
        try:
            source = self.client.get_model_version_download_uri(name, version)
            self._check_listing(source, allowed)
            raw = target.parent / "raw"
            raw.mkdir(parents=True)
            local = artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(raw), tracking_uri=self.uri
            )
            os.replace(local, target)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"cannot download {name} version {version} from {self.address}: {error}"
            ) from error
