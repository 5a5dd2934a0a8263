"""A segment: an append-only file of lines, each of them there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Segment:
    """One open file of a journal. Not safe to use from several threads.

    synced: whether lines are on the disk, not only the kernel's, when ``append`` returns.
    """

    def __init__(self, path: Path, *, synced: bool) -> None:
        """Raises OSError where the file cannot be made."""
        self.path, self.synced = path, synced
        self.rows = 0
        self.size = 0
        # Its end is not what we believe: nothing more may be written to it.
        self.spoiled = False
        # Unbuffered: a line is the kernel's once written, and outlives a killed process.
        self._file = path.open("a+b", buffering=0)
        if synced:
            try:
                sync_folder(path.parent)
            except OSError:
                self.close()
                raise

    def append(self, lines: bytes, rows: int) -> None:
        """Keep whole lines. Raises OSError, and then none of them is in the file."""
        try:
            self._write(lines)
        except BaseException:
            self._cut()
            raise
        try:
            if self.synced:
                os.fsync(self._file.fileno())
        except BaseException:
            # The kernel may have dropped what it could not write, and the next fsync would not say so:
            # nothing more goes to this file.
            self._cut()
            self.spoiled = True
            raise
        self.size += len(lines)
        self.rows += rows

    def _cut(self) -> None:
        """Take back what a failed write left of its lines."""
        try:
            os.ftruncate(self._file.fileno(), self.size)
        except OSError:
            self.spoiled = True

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            written = self._file.write(left)
            if not written:
                raise OSError(f"{self.path.name}: nothing could be written")
            left = left[written:]

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def gone(self) -> bool:
        """Whether the file at its path is another one, or none."""
        try:
            there = os.stat(self.path)
        except OSError:
            return True
        mine = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev)

    def content(self) -> bytes:
        """What was kept, even where the file has been removed meanwhile."""
        return os.pread(self._file.fileno(), self.size, 0)

    def empty(self) -> None:
        """Forget what was kept, which is elsewhere now. Raises OSError."""
        os.ftruncate(self._file.fileno(), 0)
        self.size = self.rows = 0

    def close(self) -> None:
        with contextlib.suppress(OSError):  # everything was written, and synced where it had to be
            self._file.close()


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a synced file of which the folder knows nothing is lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
