"""The manifest: which versions and files make one release."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.catalog import Catalog
from models.decision.estimates import DecisionDefaults
from models.digest import digest_file, digest_json, digest_text
from models.errors import DigestMismatch, ReleaseError
from models.files.release_files import SHA256, check_file, check_names, read_bytes

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"


class Pin(BaseModel):
    """One artifact of a release: its registered name and version, its files and their SHA-256.

    folder: where it lies inside a release folder. encoder: the digest of the encoder it was fitted
    on (its own, for the encoder).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    folder: str
    encoder: str
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """The artifact's identity: one digest over its files."""
        return digest_json(self.files)

    def check(self, part: str, name: str, folder: str) -> None:
        """Raises ReleaseError where it is not what a release has in this place.

        part: encoder, domains, probes, shrinkage or predictor.
        """
        if (self.name, self.folder) != (name, folder):
            raise ReleaseError(
                f"manifest: {self.name[:80]!r} in the folder {self.folder[:80]!r}, expected {name!r} "
                f"in {folder!r}"
            )
        if re.fullmatch(r"[0-9]{1,18}|unregistered", self.version) is None:
            raise ReleaseError(f"manifest: {name} has the version {self.version[:40]!r}")
        check_names(part, {*self.files})
        for file, digest in self.files.items():
            if SHA256.fullmatch(digest) is None:
                raise ReleaseError(f"manifest: {folder}/{file} has no SHA-256 digest")

    def verify(self, root: Path) -> None:
        """Raises DigestMismatch when a file under ``root / folder`` is not the one pinned, and
        ReleaseError when it is no plain file or too large."""
        for name, wanted in self.files.items():
            path = root / self.folder / name
            if os.path.lexists(path):
                check_file(path)
            found = digest_file(path) if path.is_file() else "no file"
            if found != wanted:
                raise DigestMismatch(
                    f"{path}: sha256 is {found}, the manifest says {wanted}", path=path
                )


def pin(name: str, root: Path, folder: str, encoder: str, files: tuple[str, ...]) -> Pin:
    """Pin the files of ``root / folder`` as they are now; the version comes when registered."""
    digests = {file: digest_file(root / folder / file) for file in files}
    return Pin(name=name, version="unregistered", folder=folder, encoder=encoder, files=digests)


class DataSource(BaseModel):
    """The evaluation set a release was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    queries: int


class Manifest(BaseModel):
    """What makes a release. Refuses predictors that were fitted on another encoder.

    flagged: candidate → what its predictor was found wanting in on unseen queries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    encoder: Pin
    domains: Pin
    probes: Pin
    shrinkage: Pin
    predictors: dict[str, Pin] = Field(min_length=1)
    catalog: Catalog
    defaults: DecisionDefaults
    data: DataSource
    created: str
    notes: tuple[str, ...] = ()
    flagged: dict[str, str] = Field(default_factory=dict)

    @property
    def pins(self) -> list[Pin]:
        return [self.encoder, self.domains, self.probes, self.shrinkage, *self.predictors.values()]

    @property
    def digest(self) -> str:
        """The release's identity, whatever its registered versions."""
        body = self.model_dump(exclude={"created": True})
        for part in [
            body["encoder"],
            body["domains"],
            body["probes"],
            body["shrinkage"],
            *body["predictors"].values(),
        ]:
            del part["version"]
        return digest_json(body)

    def check(self) -> None:
        """Raises ReleaseError when the parts do not belong together, or lie elsewhere than they do."""
        self.encoder.check("encoder", "mixllm-encoder", "encoder")
        self.domains.check("domains", "mixllm-domains", "domains")
        self.probes.check("probes", "mixllm-router", "probes")
        self.shrinkage.check("shrinkage", "mixllm-router", "shrinkage")
        for llm, part in self.predictors.items():
            plain = slug(llm)
            part.check("predictor", f"mixllm-predictor-{plain}", f"predictors/{plain}")
        strangers = sorted(p.name for p in self.pins if p.encoder != self.encoder.encoder)
        if strangers:
            raise ReleaseError(
                f"fitted on another encoder than the release's: {', '.join(strangers)}; "
                "refit them on this encoder"
            )
        if sorted(self.predictors) != sorted(self.catalog.names):
            raise ReleaseError("the manifest's predictors are not the catalog's candidates")

    def write(self, root: Path) -> None:
        self.check()
        (root / MANIFEST_FILE).write_text(self.model_dump_json(indent=2) + "\n")


def read_manifest(root: Path) -> Manifest:
    """Read and check ``manifest.json``. Raises ReleaseError."""
    path = root / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ReleaseError(f"{path}: {place}: {first['msg']}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise ReleaseError(
            f"{path}: format_version is {manifest.format_version}, this version reads {FORMAT_VERSION}"
        )
    manifest.check()
    return manifest


def slug(name: str) -> str:
    """A candidate's name as a folder and registry name; changed names keep apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain[:80]}-{digest_text(name)[:8]}"


def summary(manifest: Manifest) -> dict[str, Any]:
    """What ``GET /v1/release`` shows of a manifest."""
    return {
        "digest": manifest.digest,
        "created": manifest.created,
        "data": manifest.data.model_dump(),
        "defaults": manifest.defaults.model_dump(),
        "candidates": manifest.catalog.names,
        "encoder": {"version": manifest.encoder.version, "digest": manifest.encoder.encoder},
        "domains": manifest.domains.version,
        "predictors": {
            llm: {"version": p.version, "digest": p.digest}
            for llm, p in manifest.predictors.items()
        },
        "notes": list(manifest.notes),
        "flagged": manifest.flagged,
    }
