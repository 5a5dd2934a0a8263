"""The policy state that has a say: followed in Postgres, kept on disk, never a bad one."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from infra.settings import Settings
from models.errors import PolicyError
from models.learning.policy_state import PolicyState, state_digest
from monitoring.learning.learner import newest_good
from monitoring.learning.policy_states import Stored, newest_mark
from serving import metrics
from serving.polling import Poller
from serving.routing.champion import Champion

log = logging.getLogger("mixllm.policy")

FOLDER: Final = "policy"
SUFFIX: Final = ".safetensors"
# Copies that are kept, of whatever release: a rollback finds its own.
KEPT: Final = 4
# Hexadecimal digits of a state's digest in its copy's name.
DIGITS: Final = 16


class PolicyFollower:
    """Keeps one reference to the newest good state of the running release."""

    def __init__(
        self, settings: Settings, champion: Champion, engine: Callable[[], Engine]
    ) -> None:
        self.settings, self.champion = settings, champion
        self.last_error: str | None = None
        self._engine = engine
        self._stored: Stored | None = None
        self._folder = settings.home / FOLDER
        self._poller = Poller("policy", self._look)
        self.start, self.stop = self._poller.start, self._poller.stop

    def of(self, release: str) -> Stored | None:
        """The state to decide by, with the release of this digest."""
        stored = self._stored
        return stored if stored is not None and stored.state.release == release else None

    def _look(self) -> float:
        running = self.champion.running
        if running is None:
            return 0.2
        try:
            self._follow(running.release.digest, running.release.candidates)
        except Exception as error:  # noqa: BLE001 - without Postgres the state at hand stays
            log.warning("policy: %s", str(error).partition("\n")[0])
        return self.settings.policy_seconds

    def _follow(self, release: str, candidates: list[str]) -> None:
        now = self.of(release) or self._from_disk(release, candidates)
        newest = newest_mark(self._engine(), release)
        if newest is None:
            return
        if newest.refused is None and now is not None and now.version == newest.version:
            self.last_error = None
            return
        stored = newest_good(self._engine(), release)
        if stored is None or stored.version < newest.version:
            self._alert(f"policy state {newest.version} is refused: see mixllm policy list")
        else:
            self.last_error = None
        if stored is None or (now is not None and stored.version == now.version):
            return
        if stored.state.candidates != candidates:
            self._alert(f"policy state {stored.version} is of other candidates")
            return
        self._take(stored)
        self._to_disk(stored)

    def _take(self, stored: Stored) -> None:
        self._stored = stored
        metrics.policy_version.set(stored.version)
        metrics.policy_votes.set(stored.state.counts["applied"])
        log.info("policy state %s decides", stored.version)

    def _alert(self, message: str) -> None:
        if message != self.last_error:
            log.error("%s; the last good one stays", message)
            metrics.policy_refused.inc()
        self.last_error = message

    def _from_disk(self, release: str, candidates: list[str]) -> Stored | None:
        """The state of the last run, for a start without Postgres; the newest that is whole."""
        for path in sorted(self._folder.glob(f"{release[:32]}-*{SUFFIX}"), key=version_of)[::-1]:
            try:
                stored = read_copy(path)
            except (PolicyError, OSError) as error:
                self._alert(f"{path}: {error}")
                continue
            if stored.state.release == release and stored.state.candidates == candidates:
                self._take(stored)
                return stored
        return None

    def _to_disk(self, stored: Stored) -> None:
        """A state that cannot be written decides all the same."""
        data = stored.state.dump()
        name = f"{stored.state.release[:32]}-{stored.version:012d}-{state_digest(data)[:DIGITS]}"
        part = self._folder / f"{name}.{secrets.token_hex(4)}.part"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(self._folder / f"{name}{SUFFIX}")
            for old in sorted(self._folder.glob(f"*{SUFFIX}"), key=version_of)[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.error(
                "policy state %s decides, but no copy could be written: %s", stored.version, error
            )
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def version_of(path: Path) -> int:
    """A copy's version, by its name; -1 where it has none."""
    part = path.stem.split("-")[1:2]
    return int(part[0]) if part and part[0].isdecimal() else -1


def read_copy(path: Path) -> Stored:
    """A state's copy on disk. Raises PolicyError, OSError."""
    version = version_of(path)
    if version < 0:
        raise PolicyError("its name has no version")
    data = path.read_bytes()
    digest = path.stem.split("-")[2:3]  # the copies of earlier versions have none
    if digest and not state_digest(data).startswith(digest[0]):
        raise PolicyError("its bytes are not those that were written")
    return Stored(version, PolicyState.parse(data))
