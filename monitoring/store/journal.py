"""The journal: rows go to a local file first, and from there to Postgres, each exactly once.

The request's path only appends a line to the open segment. A background thread closes the segment,
inserts its rows by id (a row that is there already stays) and deletes the file once Postgres has
it. While Postgres is away the segments wait; those of a process that died are taken over by the
next one. A row that Postgres refuses becomes a dead letter, and the others go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from infra.text import dump_line
from monitoring.store.dead_letters import DeadLetter, DeadLetters, reason_of
from monitoring.store.inserter import Inserter, Sink
from monitoring.store.ownership import Ownership
from monitoring.store.segment import Segment, sync_folder
from monitoring.store.segments import SUFFIX, age, count_lines
from monitoring.store.waiting_rows import WaitingRows

log = logging.getLogger("mixllm.journal")

# What earlier versions set aside, and did not look at again.
REFUSED_SUFFIX: Final = ".refused"
MAX_BACKOFF_SECONDS: Final = 5.0
# Lost rows are logged at the first, and then so many apart.
LOST_LOGGED: Final = 1000
# A segment is closed when it is so large, however long Postgres is away.
SEGMENT_BYTES: Final = 8 * 2**20


class Journal:
    """Rows to be written to Postgres.

    folder: where segments lie; shared by all processes of a machine.
    sink: Postgres, or what stands for it.
    flush_seconds: how long a row waits at most while Postgres is well.
    synced: whether a row must be on the disk, not only the kernel's, before ``append`` returns.
    refused: called with how many rows have become dead letters.
    """

    def __init__(
        self,
        folder: Path,
        sink: Sink,
        flush_seconds: float,
        *,
        synced: bool = False,
        refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.synced = synced
        self.folder = folder
        self.flush_seconds = flush_seconds
        self.files = WaitingRows(folder)
        # Rows that could not be kept, since the start.
        self.lost = 0
        self.disk_error: str | None = None
        self._inserter = Inserter(folder, sink, refused)
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._count = 0
        # Closed segments, those of dead processes included → rows in each.
        self._closed: dict[Path, int] = {}
        self._ownership = Ownership(folder)
        self._segment: Segment | None = None
        with self._lock:
            try:
                self._segment = self._open_segment()
            except OSError as error:  # rows are refused until it can be written
                self._disk_failed(error)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        with self._flushing:
            self._adopt()
        self._thread.start()

    def append(self, *rows: dict[str, Any]) -> None:
        """Keep rows: in the file when this returns, in Postgres soon after.

        Raises OSError, and then none of them is kept.
        """
        lines = b"".join(dump_line(row) + b"\n" for row in rows)
        with self._lock:
            try:
                segment = self._writable()
                segment.append(lines, len(rows))
                if self.synced and segment.gone:  # removed while it was written
                    self._writable()
            except OSError as error:
                self._disk_failed(error)
                raise
            self.disk_error = None
            full = segment.size >= SEGMENT_BYTES
        if full:
            try:
                self._close_segment()
            except OSError as error:  # the rows are kept; the open segment grows on
                self._disk_failed(error)

    def keep(self, row: dict[str, Any]) -> bool:
        """Append a row whose loss must stop nobody: where it cannot be kept, it is counted as lost."""
        try:
            self.append(row)
        except Exception as error:  # noqa: BLE001 - no caller's request may fail for a lost row
            self._count_lost(1, reason_of(error))
            return False
        return True

    def _count_lost(self, rows: int, reason: str) -> None:
        with self._lock:
            before, self.lost = self.lost, self.lost + rows
        if before // LOST_LOGGED < self.lost // LOST_LOGGED or before == 0:
            log.error("%s: rows lost: %d (%s)", self.folder.name, self.lost, reason)

    @property
    def dead_letters(self) -> DeadLetters:
        return self._inserter.dead_letters

    @property
    def last_error(self) -> str | None:
        """Why rows wait, while Postgres is away."""
        return self._inserter.last_error

    @property
    def waiting(self) -> int:
        """Rows of this process, and of dead ones it took over, not yet known to be in Postgres."""
        segment = self._segment
        return (segment.rows if segment else 0) + sum(map(self._left, list(self._closed)))

    def _left(self, path: Path) -> int:
        """Rows of a closed segment that are not yet in Postgres."""
        return max(0, self._closed.get(path, 0) - self._inserter.rows_done(path))

    def flush(self) -> bool:
        """Move everything that waits into Postgres; False where it is away."""
        with self._flushing:
            self._adopt()
            well = True
            for path in sorted(self._closed.copy(), key=age):
                try:
                    if not self._insert_segment(path):
                        return False
                except OSError as error:  # it cannot be read, or no dead letter written: it stays
                    self._disk_failed(error)
                    well = False
            segment = self._segment
            if segment is None or segment.rows == 0:
                self._ownership.release(list(self._closed))
                return well
            try:
                closed = self._close_segment()
            except OSError as error:  # no new file can be made: insert from the open one
                self._disk_failed(error)
                return self._insert_open()
            done = closed is None or self._insert_segment(closed)
            self._ownership.release(list(self._closed))
            return done and well

    def close(self) -> None:
        """Flush once more and stop; what Postgres does not take stays in its file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - closing goes on; what waits is in its files
            log.error("%s: %s", self.folder.name, error)
        with self._lock:
            segment, self._segment = self._segment, None
            if segment is not None:
                segment.close()
                if segment.rows == 0:
                    segment.path.unlink(missing_ok=True)
            self._ownership.close()

    def _run(self) -> None:
        backoff = self.flush_seconds
        while not self._stop.wait(backoff):
            try:
                well = self.flush()
            except Exception as error:  # noqa: BLE001 - this thread must outlive a full disk, say
                message, well = reason_of(error), False
                if message != self.last_error:
                    log.error("%s: %s", self.folder.name, message)
                self._inserter.last_error = message
            later = min(max(backoff, 0.5) * 2, MAX_BACKOFF_SECONDS)
            backoff = self.flush_seconds if well else later

    def _disk_failed(self, error: OSError) -> None:
        message = f"{error.strerror or error} ({self.folder.name})"
        if message != self.disk_error:
            log.error("rows cannot be written to %s: %s", self.folder, error)
        self.disk_error = message

    # --- files -----------------------------------------------------------------------------------

    def _writable(self) -> Segment:
        """The open segment, or a new one where that can be written no more. Raises OSError."""
        segment = self._segment
        if segment is not None and not segment.spoiled and not segment.gone:
            return segment
        fresh = self._open_segment()
        if segment is not None and segment.gone:  # removed: what it held goes to the new one
            try:
                if segment.rows:
                    fresh.append(segment.content(), segment.rows)
            except OSError:
                fresh.close()
                fresh.path.unlink(missing_ok=True)
                raise
            log.error("%s was removed while it was in use; its rows are kept", segment.path)
            segment.close()
        elif segment is not None:
            segment.close()
            self._closed[segment.path] = segment.rows
        self._segment = fresh
        return fresh

    def _open_segment(self) -> Segment:
        """Raises OSError."""
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.synced:
                sync_folder(self.folder.parent)
        self._ownership.hold()
        self._count += 1
        return Segment(
            self.folder / f"{self._ownership.name}-{self._count:08d}{SUFFIX}", synced=self.synced
        )

    def _close_segment(self) -> Path | None:
        """Go on in a new segment; the path of the one before. Raises OSError where none can be made."""
        with self._lock:
            old = self._segment
            if old is None or old.rows == 0:
                return None
            if old.gone:
                self._writable()
                old = self._segment
                assert old is not None
            self._segment = self._open_segment()
            old.close()
            self._closed[old.path] = old.rows
            return old.path

    def _adopt(self) -> None:
        """Take over what dead processes and earlier versions left."""
        for path in self._ownership.adopt():
            self._closed[path] = count_lines(path)
        self._ownership.release(list(self._closed))
        try:
            self._adopt_refused()
        except OSError as error:
            self._disk_failed(error)

    def _adopt_refused(self) -> None:
        """Rows that an earlier version set aside become dead letters."""
        for path in self.folder.glob(f"*{REFUSED_SUFFIX}"):
            lines = filter(None, path.read_bytes().splitlines())
            reason = "refused by Postgres earlier"
            self._inserter.bury([DeadLetter.of(line, reason) for line in lines])
            path.unlink(missing_ok=True)

    # --- Postgres --------------------------------------------------------------------------------

    def _insert_segment(self, path: Path) -> bool:
        """A closed segment's rows, and then the file goes. False where Postgres is away.

        Raises OSError where the file cannot be read, or no dead letter written.
        """
        if self._left(path) and not path.exists():
            self._count_lost(self._left(path), f"{path} was removed before Postgres had it")
        if not self._inserter.insert(path):
            return False
        path.unlink(missing_ok=True)
        self._closed.pop(path, None)
        self._inserter.forget(path)
        return True

    def _insert_open(self) -> bool:
        """The open segment's rows, without a new file; emptied where nobody wrote meanwhile."""
        with self._lock:
            segment = self._segment
            if segment is None:
                return True
            upto = segment.size
        if not self._inserter.insert(segment.path, upto):
            return False
        with self._lock:
            if segment is self._segment and segment.size == upto:
                segment.empty()
                self._inserter.forget(segment.path)
        return True
