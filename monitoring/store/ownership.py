"""Which process a segment belongs to, and whether that process still lives."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

from monitoring.store.segments import owner_of, segments_of


class Ownership:
    """This process's claim on its segments in a folder, and on those of dead processes.

    A process holds the lock of its name while it lives. Process ids repeat, in containers always, and
    clocks go back, so the name has a random part too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"{os.getpid()}-{time.time_ns()}-{secrets.token_hex(4)}"
        self.lock: IO[bytes] | None = None
        self._adopted: dict[str, IO[bytes]] = {}

    def hold(self) -> None:
        """Say that this process lives; again where somebody removed the file. Raises OSError."""
        path = self._lock_path(self.name)
        while self.lock is None or not is_at(self.lock, path):
            handle = path.open("ab")
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self.lock is not None:
                self.lock.close()
            self.lock = handle

    def adopt(self) -> list[Path]:
        """Take over the segments whose process is gone, so that one process has and counts them."""
        owners = {owner_of(path) for path in segments_of(self.folder)}
        owners |= {path.stem for path in self.folder.glob("*.lock")}
        adopted: list[Path] = []
        for owner in owners - {self.name} - self._adopted.keys():
            handle = self._lock_of_dead(owner)
            if handle is not None:
                self._adopted[owner] = handle
                adopted += [p for p in segments_of(self.folder) if owner_of(p) == owner]
        return adopted

    def _lock_of_dead(self, owner: str) -> IO[bytes] | None:
        """The lock of a process that is gone; None where it lives."""
        path = self._lock_path(owner)
        try:
            handle = path.open("ab")
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # alive
            handle.close()
            return None
        if not is_at(handle, path):
            handle.close()
            return None
        return handle

    def release(self, waiting: Collection[Path]) -> None:
        """Let go of dead processes whose segments are all inserted.

        waiting: the segments that are not.
        """
        busy = {owner_of(path) for path in waiting}
        for owner in [owner for owner in self._adopted if owner not in busy]:
            self._lock_path(owner).unlink(missing_ok=True)
            self._adopted.pop(owner).close()

    def close(self) -> None:
        """Give up every claim; what is left of this process's segments goes to the next one."""
        left = [path for path in segments_of(self.folder) if owner_of(path) == self.name]
        if self.lock is not None:
            if not left:
                self._lock_path(self.name).unlink(missing_ok=True)
            self.lock.close()
        for handle in self._adopted.values():
            handle.close()

    def _lock_path(self, owner: str) -> Path:
        return self.folder / f"{owner}.lock"


def is_at(handle: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        there = path.stat()
    except OSError:
        return False
    mine = os.fstat(handle.fileno())
    return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)
