"""The running release: loaded at start, replaced when the champion changes, never mid-request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from infra.settings import Settings
from models.catalog import Catalog, Upstream, read_catalog
from models.errors import MixLLMError
from models.manifest import Manifest, read_manifest
from models.release import Release
from serving import metrics

if TYPE_CHECKING:
    from infra.registry import Registry

log = logging.getLogger("mixllm.champion")

CURRENT_FILE: Final = "current-release"
RETRY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Running:
    """A release that answers. source: "registry", or "disk" when the registry was not asked yet."""

    release: Release
    version: str
    source: str
    since: float


class Follower(Protocol):
    """What else is to follow the registry, at the same polls."""

    def follow(self, registry: Registry, champion: Running | None) -> None: ...


class Champion:
    """Keeps one reference to the release that answers; readers take it once per request.

    A new champion is fetched, verified, loaded and checked on its probe queries beside the running
    one before the reference changes. What fails is logged and shown, and the running one stays.
    """

    def __init__(
        self, settings: Settings, note: Callable[[Manifest, str], None] = lambda *_: None
    ) -> None:
        """note: told every release that comes to answer, and its version."""
        self.settings = settings
        self.followers: list[Follower] = []
        self._note_loaded = note
        self.running: Running | None = None
        self.last_error: str | None = None
        self.disabled: frozenset[str] = frozenset()
        # The catalog of this machine, whose upstreams come before the release's.
        self.spare_catalog: Catalog | None = None
        self.catalog_error: str | None = None
        self.upstreams: Mapping[str, Upstream] = {}
        self._home = settings.home / "registry"
        self._failed: dict[str, float] = {}
        self._catalog_written = 0
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)

    def start(self) -> None:
        """Load the release of the last run from disk, if any, then follow the registry."""
        self._read_catalog()
        marker = self._home / CURRENT_FILE
        if marker.is_file():
            version = marker.read_text().strip()
            try:
                self._load(version, self._home / "releases" / version, "disk")
            except (MixLLMError, OSError) as error:
                self._note(f"release {version} on disk: {error}")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def refresh(self) -> None:
        """Ask the registry now rather than at the next poll."""
        self._wake.set()

    def _run(self) -> None:
        # MLflow takes seconds to import: not on the way to the first answer.
        from infra.registry import CHAMPION, Registry

        registry: Registry | None = None
        while not self._stop.is_set():
            self._wake.clear()
            self._read_catalog()
            try:
                registry = registry or Registry(self.settings.registry_uri, self._home)
                self.disabled = registry.disabled()
                version = registry.alias(CHAMPION)
                if version is not None:
                    self._follow(registry, version)
                for follower in self.followers:
                    follower.follow(registry, self.running)
            except Exception as error:  # whatever the registry does, the running release answers
                self._note(f"registry: {error}")
            self._wake.wait(self.settings.poll_seconds)

    def _follow(self, registry: Registry, version: str) -> None:
        running = self.running
        if running is not None and running.version == version:
            # The disk's copy, if the registry still means that one.
            folder = registry.fetch(version)
            if running.source == "disk":
                if read_manifest(folder).digest == running.release.digest:
                    self.running = Running(running.release, version, "registry", running.since)
                else:
                    self._load(version, folder, "registry")
            self.last_error = None
            return
        if time.monotonic() < self._failed.get(version, 0.0):
            return
        if running is not None and (why := registry.refused(version)) is not None:
            self._failed[version] = time.monotonic() + self.settings.poll_seconds
            self._note(
                f"release {version} refused by its gate ({why}); mixllm promote {version} --force"
            )
            return
        try:
            self._load(version, registry.fetch(version), "registry")
        except (MixLLMError, OSError) as error:
            self._failed[version] = time.monotonic() + RETRY_SECONDS
            self._note(f"release {version} refused: {error}")
            return
        (self._home / CURRENT_FILE).write_text(version)
        registry.note_swap(running.version if running else None, version)
        self.last_error = None

    def _load(self, version: str, folder: Path, source: str) -> None:
        release = Release.load(folder, self.settings.encoder_threads)
        release.check_probes(folder)
        self.running = Running(release, version, source, time.time())
        self._note_loaded(release.manifest, version)
        self._join_upstreams()
        metrics.loads.inc()
        log.info("release %s answers (from %s)", version, source)

    def _read_catalog(self) -> None:
        """Read the machine's catalog where it has changed; a broken one leaves what was read before."""
        path = self.settings.catalog
        if path is None:
            return
        written = path.stat().st_mtime_ns if path.is_file() else -1
        if written == self._catalog_written:
            return
        self._catalog_written = written
        try:
            self.spare_catalog, self.catalog_error = read_catalog(path), None
        except MixLLMError as error:
            log.error("%s", error)
            self.catalog_error = str(error)
        self._join_upstreams()

    def _join_upstreams(self) -> None:
        found: dict[str, Upstream] = {}
        release = self.running.release.manifest.catalog if self.running else None
        for catalog in (release, self.spare_catalog):
            if catalog is not None:
                found |= {c.name: c.upstream for c in catalog.llms if c.upstream is not None}
        if release is not None:
            found = {name: spec for name, spec in found.items() if name in release.names}
        if found != self.upstreams:
            self.upstreams = found

    def _note(self, message: str) -> None:
        if message != self.last_error:
            log.error("%s", message)
        self.last_error = message
