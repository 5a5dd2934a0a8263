"""The journal: rows go to a local file first, and from there to Postgres, each exactly once.

The request's path only appends a line to the open segment. A background thread closes the segment,
inserts its rows by id (a row that is there already stays) and deletes the file once Postgres has
it. While Postgres is away the segments wait; those of a process that died are taken over by the
next one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import orjson
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

log = logging.getLogger("mixllm.journal")

SUFFIX: Final = ".jsonl"
REFUSED_SUFFIX: Final = ".refused"
MAX_BACKOFF_SECONDS: Final = 5.0
Insert = Callable[[Sequence[dict[str, Any]]], None]


class Journal:
    """Rows to be written to Postgres.

    folder: where segments lie; shared by all processes of a machine. insert: writes rows in one
    transaction, harmless when they are there already. flush_seconds: how long a row waits at most
    while Postgres is well. synced: whether a row must be on the disk, not only the kernel's, before
    ``append`` returns.
    """

    def __init__(
        self, folder: Path, insert: Insert, flush_seconds: float, synced: bool = False
    ) -> None:
        self.synced = synced
        self.folder = folder
        self.insert = insert
        self.flush_seconds = flush_seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._count = 0
        self._rows_open = 0
        self._rows_waiting = 0
        # Held while this process lives: its segments are nobody else's.
        self._owner = f"{os.getpid()}-{time.time_ns()}"
        self._lock_file = self._take_lock(self._owner)
        self._segment = self._open_segment()
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def append(self, *rows: dict[str, Any]) -> None:
        """Keep rows: in the file when this returns, in Postgres soon after."""
        lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        with self._lock:
            self._segment.write(lines)
            if self.synced:
                os.fsync(self._segment.fileno())
            self._rows_open += len(rows)

    def left(self) -> list[dict[str, Any]]:
        """The rows that wait in files, those of processes that are gone included."""
        paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        return [row for path in paths for row in read_segment(path)]

    @property
    def waiting(self) -> int:
        """Rows not yet known to be in Postgres."""
        return self._rows_open + self._rows_waiting

    def flush(self) -> bool:
        """Move everything that waits into Postgres; False where it is away."""
        with self._flushing:
            self._close_segment()
            segments = sorted(self.folder.glob(f"{self._owner}-*{SUFFIX}"))
            segments = [path for path in segments if path != Path(self._segment.name)]
            return all(self._insert_segment(path) for path in [*self._orphans(), *segments])

    def close(self) -> None:
        """Flush once more and stop; what Postgres does not take stays in its file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self.flush()
        self._segment.close()
        if self._rows_waiting == 0 and self._rows_open == 0:
            Path(self._segment.name).unlink(missing_ok=True)
            (self.folder / f"{self._owner}.lock").unlink(missing_ok=True)
        self._lock_file.close()

    def _run(self) -> None:
        backoff = self.flush_seconds
        while not self._stop.wait(backoff):
            try:
                well = self.flush()
            except Exception as error:  # a full disk, say: this thread must outlive it, rows wait
                self.last_error, well = str(error), False
                log.error("journal: %s", error)
            backoff = (
                self.flush_seconds if well else min(max(backoff, 0.5) * 2, MAX_BACKOFF_SECONDS)
            )

    def _take_lock(self, owner: str) -> IO[bytes]:
        handle = (self.folder / f"{owner}.lock").open("wb")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle

    def _open_segment(self) -> IO[bytes]:
        self._count += 1
        # Unbuffered: a line is the kernel's once written, and outlives a killed process.
        return (self.folder / f"{self._owner}-{self._count:08d}{SUFFIX}").open("ab", buffering=0)

    def _close_segment(self) -> None:
        with self._lock:
            if self._rows_open == 0:
                return
            old, self._segment = self._segment, self._open_segment()  # a full disk keeps the old
            old.close()
            self._rows_waiting += self._rows_open
            self._rows_open = 0

    def _insert_segment(self, path: Path) -> bool:
        rows = read_segment(path)
        try:
            if rows:
                self.insert(rows)
        except (DataError, IntegrityError) as error:  # these rows, not Postgres, are at fault
            self.last_error = str(error.__cause__ or error)
            log.error("journal: Postgres refuses rows of %s: %s", path, self.last_error)
            self._insert_one_by_one(path, rows)
        except SQLAlchemyError as error:
            if self.last_error is None:
                log.warning("journal: Postgres is away, rows wait in %s", self.folder)
            self.last_error = str(error.__cause__ or error)
            return False
        else:
            if self.last_error is not None:
                log.warning("journal: Postgres is back")
            self.last_error = None
        path.unlink(missing_ok=True)
        self._rows_waiting = max(0, self._rows_waiting - len(rows))
        return True

    def _insert_one_by_one(self, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the good rows of a refused segment; the bad ones stay beside it in a file."""
        for row in rows:
            try:
                self.insert([row])
            except (DataError, IntegrityError):
                with path.with_suffix(REFUSED_SUFFIX).open("ab") as handle:
                    handle.write(orjson.dumps(row) + b"\n")

    def _orphans(self) -> list[Path]:
        """Segments whose process is gone."""
        found: list[Path] = []
        for lock_path in self.folder.glob("*.lock"):
            owner = lock_path.stem
            if owner == self._owner:
                continue
            with lock_path.open("rb") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # alive
                segments = sorted(self.folder.glob(f"{owner}-*{SUFFIX}"))
                if segments:
                    found += segments
                else:
                    lock_path.unlink(missing_ok=True)
        return found


def read_segment(path: Path) -> list[dict[str, Any]]:
    """A segment's rows; a last line cut short by a crash was never accepted, and is left out."""
    rows = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:  # another process took the orphan over
        return []
    for line in lines:
        if line:
            try:
                rows.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                log.warning("journal: a line cut short in %s", path)
    return rows
