"""The running release: loaded at start, replaced when the champion changes, never mid-request."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from infra.settings import Settings
from models.catalog import Catalog, Upstream, upstreams_of
from models.catalog_file import read_catalog
from models.errors import MixLLMError, RegistryError, ReleaseError
from models.release.manifest import Manifest, read_manifest
from models.release.release import Release
from serving import metrics
from serving.polling import Poller
from serving.routing.last_run import LastRun

if TYPE_CHECKING:
    from infra.registry.registry import Registry

log = logging.getLogger("mixllm.champion")

# As the registry names it, whose module takes MLflow's seconds to import.
CHAMPION: Final = "champion"
RETRY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Running:
    """A release that answers. source: "registry", or "disk" when the registry was not asked yet."""

    release: Release
    version: str
    source: str
    since: float


def can_be_called(upstream: Upstream) -> bool:
    """Whether this machine has the key that it needs."""
    return upstream.key_variable is None or bool(os.environ.get(upstream.key_variable))


def short(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, MixLLMError | OSError) else f"{type(error).__name__}: {text}"


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
        # When the registry answered last (seconds since the epoch), if it did.
        self.asked: float | None = None
        self.upstreams: Mapping[str, Upstream] = {}
        self._last_run = LastRun(settings.home / "registry")
        self._failed: dict[str, float] = {}
        self._catalog_written = 0
        self._registry: Registry | None = None
        self._poller = Poller("champion", self._look)

    def start(self) -> None:
        """Load the release of the last run from disk, if any, then follow the registry."""
        self._read_catalog()
        self.disabled = self._last_run.disabled()
        try:
            self._load_last_run()
        except Exception as error:  # noqa: BLE001 - whatever is on disk, the registry has another copy
            self._note(f"the release of the last run is not loaded: {error}")
        self._poller.start()

    def _load_last_run(self) -> None:
        if (last := self._last_run.release()) is not None:
            self._answer_with(self._checked(*last, "disk"))

    def stop(self) -> None:
        self._poller.stop()

    def refresh(self) -> None:
        """Ask the registry now rather than at the next poll."""
        self._poller.wake()

    def _look(self) -> float:
        # MLflow takes seconds to import: not on the way to the first answer.
        from infra.registry.registry import Registry

        self._read_catalog()
        try:
            self._registry = self._registry or Registry.of(self.settings)
            self.poll(self._registry)
        except Exception as error:  # noqa: BLE001 - the running release answers without the registry
            self._note(f"registry: {short(error)}")
        return self.settings.poll_seconds

    def poll(self, registry: Registry) -> None:
        """Ask the registry once: who is disabled, who is champion, and what the followers follow."""
        try:
            self._disable(registry.disabled())
            version = registry.alias(CHAMPION)
            if version is not None:
                self._follow(registry, version)
            elif self.running is not None:
                stays = f"release {self.running.version} keeps answering"
                self._note(f"MLflow names no champion: {stays}")
            self.asked = time.time()
            metrics.registry_asked.set(self.asked)
        except MixLLMError as error:
            self._note(f"registry: {short(error)}")
        for follower in self.followers:
            try:
                follower.follow(registry, self.running)
            except Exception as error:  # noqa: BLE001 - one follower's failure must not stop the others
                log.error("%s: %s", type(follower).__name__, short(error))

    def _follow(self, registry: Registry, version: str) -> None:
        """Let the release that is champion answer; where it may not, the running one stays."""
        if time.monotonic() < self._failed.get(version, 0.0):
            return
        running = self.running
        try:
            if running is not None and running.version == version:
                self._confirm(registry, running)
            elif (why := registry.refused(version)) is not None:
                self._refuse(registry, version, f"its gate: {why}", self.settings.poll_seconds)
                return
            else:
                release = self._checked(version, registry.fetch(version), "registry")
                if registry.alias(CHAMPION) != version:
                    return  # another one has become champion meanwhile
                self._answer_with(release)
                self._last_run.keep_release(version)
                if running is not None:
                    self._note_swap(registry, running.version, version)
        except RegistryError:
            raise  # says nothing of the release
        except Exception as error:  # noqa: BLE001 - what a bad release raises depends on its content
            self._refuse(registry, version, short(error), RETRY_SECONDS)
            return
        if running is None or running.version != version or self._failed:
            registry.note_serving(version, None)
        self._failed.clear()
        self.last_error = None

    def _confirm(self, registry: Registry, running: Running) -> None:
        """The release that answers, as the registry has it; another where it was replaced."""
        folder = registry.fetch(running.version)
        if running.source != "disk":
            return
        if read_manifest(folder).digest == running.release.digest:
            self.running = replace(running, source="registry")
        else:
            self._answer_with(self._checked(running.version, folder, "registry"))
        self._last_run.keep_release(running.version)

    def _checked(self, version: str, folder: Path, source: str) -> Running:
        """A release, loaded and checked, that does not answer yet. Raises ReleaseError."""
        release = Release.load(folder, self.settings.encoder_threads)
        release.check_probes(folder)
        self._check_callable(release.manifest.catalog)
        return Running(release, version, source, time.time())

    def _check_callable(self, catalog: Catalog) -> None:
        """Where chats are served now, a release must not end that. Raises ReleaseError."""
        local = self.spare_catalog
        left = [name for name in catalog.names if name not in self.disabled]
        if not left:
            raise ReleaseError("every LLM of it is disabled")
        mine = upstreams_of(catalog, local)
        if any(can_be_called(mine[name]) for name in left if name in mine):
            return
        running = self.running.release.manifest.catalog if self.running else None
        serves = {**(upstreams_of(running, local) if running else {})}
        serves |= upstreams_of(local, None) if local else {}
        if any(map(can_be_called, serves.values())):
            keys = sorted({mine[n].key_variable or "" for n in left if n in mine} - {""})
            why = f"its keys are not set: {', '.join(keys)}" if keys else "none has an upstream"
            raise ReleaseError(
                f"none of its LLMs can be called ({', '.join(left[:5])}): {why}; chats would fail"
            )

    def _answer_with(self, running: Running) -> None:
        """The one place where the release that answers changes; nothing here can fail half-way."""
        # Requests that have read the release before still find their upstreams.
        catalog = running.release.manifest.catalog
        self.upstreams = {**self.upstreams, **upstreams_of(catalog, self.spare_catalog)}
        self.running = running
        self._join_upstreams()
        metrics.loads.inc()
        log.info("release %s answers (from %s)", running.version, running.source)
        try:
            self._note_loaded(running.release.manifest, running.version)
        except Exception as error:  # noqa: BLE001 - the swap is done, and must not end half-way
            log.error("release %s answers, but is not noted: %s", running.version, short(error))

    def _disable(self, names: frozenset[str]) -> None:
        """Nobody gets these from now on, nor after a restart that does not reach the registry."""
        if names != self.disabled:
            self.disabled = names
            self._last_run.keep_disabled(names)

    def _note_swap(self, registry: Registry, old: str, new: str) -> None:
        """What a rollback goes back to; the old release may have been deleted."""
        try:
            registry.note_swap(old, new)
        except Exception as error:  # noqa: BLE001 - the new release answers without the note
            log.warning("release %s is not noted as the one before: %s", old, short(error))

    def _refuse(self, registry: Registry, version: str, why: str, seconds: float) -> None:
        """Keep the running release, and say why everywhere that people look."""
        if version not in self._failed:
            metrics.releases_refused.labels(version).inc()
            registry.note_serving(version, why)
        self._failed[version] = time.monotonic() + seconds
        stays = (
            f"release {self.running.version} keeps answering" if self.running else "none answers"
        )
        force = f"; mixllm promote {version} --force" if why.startswith("its gate") else ""
        self._note(f"release {version} is refused, {stays}: {why}{force}")

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
        catalog = self.running.release.manifest.catalog if self.running else self.spare_catalog
        upstreams = upstreams_of(catalog, self.spare_catalog) if catalog is not None else {}
        if upstreams != self.upstreams:
            self.upstreams = upstreams

    def _note(self, message: str) -> None:
        if message != self.last_error:
            log.error("%s", message)
        self.last_error = message
