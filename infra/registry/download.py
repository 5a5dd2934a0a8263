"""Fetching a release: downloaded beside its place, verified, then moved there."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from mlflow import artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.registry.records import ROUTER
from infra.registry.versions import Versions
from models.digest import digest_file
from models.errors import DigestMismatch, NoRelease, RegistryError, ReleaseError
from models.files.release_files import MOST_BYTES, NEEDED, check_tree
from models.release.manifest import MANIFEST_FILE, Pin, read_manifest

log = logging.getLogger("mixllm.registry")
# What lies with a release itself; its other parts are registered models of their own.
ROUTER_FILES: Final = {
    MANIFEST_FILE, *(f"{part}/{file}" for part in ("probes", "shrinkage") for file in NEEDED[part]),
}  # fmt: skip


def fetch_release(versions: Versions, version: str) -> Path:
    """A release's folder on this machine, downloaded and verified; parts are kept by digest.

    Raises NoRelease, RegistryError, DigestMismatch.
    """
    if not version.isascii() or not version.isdecimal():
        raise NoRelease(f"no release {version!r}: a version is a number; see: mixllm releases")
    folder = versions.home / "releases" / version
    wanted = versions.router_version(version).tags.get("manifest_sha256")
    if wanted is None:
        raise ReleaseError(f"release {version} has no tag manifest_sha256 in MLflow")
    if (folder / MANIFEST_FILE).is_file() and wanted == digest_file(folder / MANIFEST_FILE):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
        root = Path(name) / version
        download(versions, ROUTER, version, root, ROUTER_FILES)
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
                kept = fetch_part(versions, part)
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


def fetch_part(versions: Versions, part: Pin) -> Path:
    """A part's folder, kept by its digest. Raises RegistryError, ReleaseError."""
    kept = versions.home / "parts" / part.digest
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
            download(versions, part.name, part.version, root, {*part.files})
            check_tree(root, {*part.files})
            here.verify(root)
            try:
                os.replace(root, kept)
            except OSError:
                if not kept.is_dir():
                    raise
    return kept


def download(versions: Versions, name: str, version: str, target: Path, allowed: set[str]) -> None:
    """allowed: the files that there may be; nothing is downloaded where there are others."""
    try:
        source = versions.client.get_model_version_download_uri(name, version)
        check_listing(versions.uri, source, allowed)
        raw = target.parent / "raw"
        raw.mkdir(parents=True)
        local = artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(raw), tracking_uri=versions.uri
        )
        os.replace(local, target)
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"cannot download {name} version {version} from {versions.address}: {error}"
        ) from error


def check_listing(uri: str, source: str, allowed: set[str]) -> None:
    """Raises ReleaseError where a store lists other files than these, or larger ones."""
    store = get_artifact_repository(source, tracking_uri=uri)
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
