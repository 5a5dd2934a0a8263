"""The journal: rows go to a local file first, and from there to Postgres, each exactly once.

The request's path only appends a line to the open segment. A background thread closes the segment,
inserts its rows by id (a row that is there already stays) and deletes the file once Postgres has
it. While Postgres is away the segments wait; those of a process that died are taken over by the
next one. A row that Postgres refuses becomes a dead letter, and the others go on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError

from infra.text import dump_line
from monitoring.store.dead_letters import DeadLetter, DeadLetters, parse_line, reason_of
from monitoring.store.segment import Segment, sync_folder

log = logging.getLogger("mixllm.journal")

SUFFIX: Final = ".jsonl"
# What earlier versions set aside, and did not look at again.
REFUSED_SUFFIX: Final = ".refused"
MAX_BACKOFF_SECONDS: Final = 5.0
# Lost rows are told in the log at the first, and then so many apart.
LOST_LOGGED: Final = 1000
# A segment is closed when it is so large, however long Postgres is away.
SEGMENT_BYTES: Final = 8 * 2**20
# What is read and inserted at once, so that memory does not grow with what waits.
BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 * 2**20
# So often a batch may fail as if Postgres were away while it is well: then its rows are to blame.
PATIENCE: Final = 5
# SQLSTATE classes and codes that say nothing of a row: connection, transaction state, login, schema,
# conflict, resources, object state, operator, system, internal; a table missing or not ours.
AWAY_CLASSES: Final = frozenset({"08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58", "XX"})
AWAY_CODES: Final = frozenset({"42P01", "42501", "42703"})
Insert = Callable[[Sequence[dict[str, Any]]], None]


class DatabaseAway(Exception):
    """Rows cannot be written now, whatever they are; they wait."""


@dataclass(frozen=True)
class Batch:
    """Lines of a segment. start, end: bytes. bad: lines that are no rows, and why."""

    start: int
    end: int
    lines: list[bytes]
    rows: list[dict[str, Any]]
    bad: list[DeadLetter]


class Journal:
    """Rows to be written to Postgres.

    folder: where segments lie; shared by all processes of a machine. insert: writes rows in one
    transaction, harmless when they are there already. flush_seconds: how long a row waits at most
    while Postgres is well. synced: whether a row must be on the disk, not only the kernel's, before
    ``append`` returns. check: raises where no row at all can be written now. refused: called with
    how many rows have become dead letters.
    """

    def __init__(
        self,
        folder: Path,
        insert: Insert,
        flush_seconds: float,
        synced: bool = False,
        check: Callable[[], None] | None = None,
        refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.synced = synced
        self.folder = folder
        self.insert = insert
        self.flush_seconds = flush_seconds
        self.dead_letters = DeadLetters(folder)
        # Rows that could not be kept, since the start.
        self.lost = 0
        self.last_error: str | None = None
        self.disk_error: str | None = None
        self._check, self._refused = check, refused
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._count = 0
        # Closed segments, those of dead processes included: rows that wait in each, and how far the
        # file has been inserted.
        self._waiting: dict[Path, int] = {}
        self._inserted: dict[Path, int] = {}
        self._failures: dict[tuple[Path, int], int] = {}
        self._counted: dict[tuple[str, int], int] = {}
        # Held while this process lives: its segments are nobody else's. Process ids repeat, in
        # containers always, and clocks go back.
        self._owner = f"{os.getpid()}-{time.time_ns()}-{secrets.token_hex(4)}"
        self._owner_lock: IO[bytes] | None = None
        self._adopted: dict[str, IO[bytes]] = {}
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
        except Exception as error:
            self._count_lost(1, reason_of(error))
            return False
        return True

    def _count_lost(self, rows: int, reason: str) -> None:
        with self._lock:
            before, self.lost = self.lost, self.lost + rows
        if before // LOST_LOGGED < self.lost // LOST_LOGGED or before == 0:
            log.error("%s: rows lost: %d (%s)", self.folder.name, self.lost, reason)

    @property
    def waiting(self) -> int:
        """Rows of this process, and of dead ones it took over, not yet known to be in Postgres."""
        segment = self._segment
        return (segment.rows if segment else 0) + sum(list(self._waiting.values()))

    def waiting_here(self) -> int:
        """Rows in the files of every process of this machine, dead or alive."""
        total, counted = 0, {}
        for path in segments_of(self.folder):
            try:
                mark = (path.name, path.stat().st_size)
                counted[mark] = self._counted.get(mark) or count_lines(path)
            except OSError:  # inserted meanwhile
                continue
            total += counted[mark]
        self._counted = counted
        return total

    def left(self) -> Iterator[dict[str, Any]]:
        """The rows that wait in files, those of every process included."""
        for path in segments_of(self.folder):
            for batch in read_batches(path):
                yield from batch.rows

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest of the rows that wait in files, the oldest first; so many, however many wait."""
        parts: deque[list[dict[str, Any]]] = deque()
        missing = count
        for path in reversed(segments_of(self.folder)):
            if missing <= 0:
                break
            tail: deque[dict[str, Any]] = deque(maxlen=missing)
            for batch in read_batches(path):
                tail.extend(batch.rows)
            parts.appendleft(list(tail))
            missing -= len(tail)
        return [row for part in parts for row in part]

    def find(self, column: str, value: str) -> dict[str, Any] | None:
        """A row that waits in a file, by a value of one of its columns."""
        for path in segments_of(self.folder):
            for batch in read_batches(path, value.encode()):
                for row in batch.rows:
                    if row.get(column) == value:
                        return row
        return None

    def flush(self) -> bool:
        """Move everything that waits into Postgres; False where it is away."""
        with self._flushing:
            self._adopt()
            well = True
            for path in sorted(self._waiting.copy(), key=age):
                try:
                    if not self._insert_segment(path):
                        return False
                except OSError as error:  # it cannot be read, or no dead letter written: it stays
                    self._disk_failed(error)
                    well = False
            segment = self._segment
            if segment is None or segment.rows == 0:
                self._release_adopted()
                return well
            try:
                closed = self._close_segment()
            except OSError as error:  # no new file can be made: insert from the open one
                self._disk_failed(error)
                return self._insert_open()
            done = closed is None or self._insert_segment(closed)
            self._release_adopted()
            return done and well

    def close(self) -> None:
        """Flush once more and stop; what Postgres does not take stays in its file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        try:
            self.flush()
        except Exception as error:  # what waits is in its files
            log.error("%s: %s", self.folder.name, error)
        with self._lock:
            segment, self._segment = self._segment, None
            if segment is not None:
                segment.close()
                if segment.rows == 0:
                    segment.path.unlink(missing_ok=True)
            own = [p for p in segments_of(self.folder) if owner_of(p) == self._owner]
            if self._owner_lock is not None:
                if not own:
                    self._lock_path(self._owner).unlink(missing_ok=True)
                self._owner_lock.close()
            for handle in self._adopted.values():
                handle.close()

    def _run(self) -> None:
        backoff = self.flush_seconds
        while not self._stop.wait(backoff):
            try:
                well = self.flush()
            except Exception as error:  # a full disk, say: this thread must outlive it, rows wait
                message, well = reason_of(error), False
                if message != self.last_error:
                    log.error("%s: %s", self.folder.name, message)
                self.last_error = message
            backoff = (
                self.flush_seconds if well else min(max(backoff, 0.5) * 2, MAX_BACKOFF_SECONDS)
            )

    def _disk_failed(self, error: OSError) -> None:
        message = f"{error.strerror or error} ({self.folder.name})"
        if message != self.disk_error:
            log.error("rows cannot be written to %s: %s", self.folder, error)
        self.disk_error = message

    # --- files -----------------------------------------------------------------------------------

    def _lock_path(self, owner: str) -> Path:
        return self.folder / f"{owner}.lock"

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
            self._waiting[segment.path] = segment.rows
        self._segment = fresh
        return fresh

    def _open_segment(self) -> Segment:
        """Raises OSError."""
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.synced:
                sync_folder(self.folder.parent)
        self._hold_owner_lock()
        self._count += 1
        return Segment(self.folder / f"{self._owner}-{self._count:08d}{SUFFIX}", self.synced)

    def _hold_owner_lock(self) -> None:
        """Say that this process lives; again where somebody removed the file."""
        path = self._lock_path(self._owner)
        while self._owner_lock is None or not is_at(self._owner_lock, path):
            handle = path.open("ab")
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self._owner_lock is not None:
                self._owner_lock.close()
            self._owner_lock = handle

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
            self._waiting[old.path] = old.rows
            return old.path

    def _adopt(self) -> None:
        """Take over the segments whose process is gone, so that one process has and counts them."""
        by_owner: dict[str, list[Path]] = {}
        for path in segments_of(self.folder):
            by_owner.setdefault(owner_of(path), []).append(path)
        for lock_path in self.folder.glob("*.lock"):
            by_owner.setdefault(lock_path.stem, [])
        for owner in by_owner.keys() - {self._owner} - self._adopted.keys():
            path = self._lock_path(owner)
            try:
                handle = path.open("ab")
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # alive
                handle.close()
                continue
            if not is_at(handle, path):
                handle.close()
                continue
            self._adopted[owner] = handle
            for segment in segments_of(self.folder):
                if owner_of(segment) == owner:
                    self._waiting[segment] = count_lines(segment)
        self._release_adopted()
        try:
            self._adopt_refused()
        except OSError as error:
            self._disk_failed(error)

    def _adopt_refused(self) -> None:
        """Rows that an earlier version set aside become dead letters."""
        for path in self.folder.glob(f"*{REFUSED_SUFFIX}"):
            lines = [line for line in path.read_bytes().splitlines() if line]
            self._bury([DeadLetter.of(line, "refused by Postgres earlier") for line in lines])
            path.unlink(missing_ok=True)

    def _release_adopted(self) -> None:
        """Let go of dead processes of which nothing is left."""
        busy = {owner_of(path) for path in list(self._waiting)}
        for owner in [owner for owner in self._adopted if owner not in busy]:
            self._lock_path(owner).unlink(missing_ok=True)
            self._adopted.pop(owner).close()

    # --- Postgres --------------------------------------------------------------------------------

    def _insert_segment(self, path: Path) -> bool:
        """A closed segment's rows, and then the file goes. False where Postgres is away.

        Raises OSError where the file cannot be read, or no dead letter written.
        """
        if self._waiting.get(path) and not path.exists():
            self._count_lost(self._waiting[path], f"{path} was removed before Postgres had it")
        if not self._insert_from(path):
            return False
        path.unlink(missing_ok=True)
        self._waiting.pop(path, None)
        self._inserted.pop(path, None)
        return True

    def _insert_open(self) -> bool:
        """The open segment's rows, without a new file; its room is given back where nobody wrote
        meanwhile."""
        with self._lock:
            segment = self._segment
            if segment is None:
                return True
            upto = segment.size
        if not self._insert_from(segment.path, upto):
            return False
        with self._lock:
            if segment is self._segment and segment.size == upto:
                segment.empty()
                self._inserted.pop(segment.path, None)
        return True

    def _insert_from(self, path: Path, upto: int | None = None) -> bool:
        """What a segment holds beyond what was inserted before, a batch at a time."""
        for batch in read_batches(path, start=self._inserted.get(path, 0), upto=upto):
            letters = list(batch.bad)
            worn = self._failures.get((path, batch.start), 0) >= PATIENCE
            try:
                done = not batch.rows or self._sift(batch.lines, batch.rows, letters, worn)
            finally:
                self._bury(letters)
            if not done:
                if self._works():
                    key = (path, batch.start)
                    self._failures = {key: self._failures.get(key, 0) + 1}
                return False
            self._failures.pop((path, batch.start), None)
            self._inserted[path] = batch.end
            if path in self._waiting:
                gone = len(batch.rows) + len(batch.bad)
                self._waiting[path] = max(0, self._waiting[path] - gone)
        return True

    def _sift(
        self,
        lines: Sequence[bytes],
        rows: Sequence[dict[str, Any]],
        letters: list[DeadLetter],
        worn: bool,
    ) -> bool:
        """Insert what Postgres takes; the rest becomes letters, by halves. False where it is away.

        worn: take Postgres's word for it that it is away no longer, if its table can be written.
        """
        try:
            self.insert(rows)
        except Exception as error:
            waits = isinstance(error, DatabaseAway | OSError)
            away = waits or (is_away(error) and not (worn and self._works()))
            if away or not self._works(otherwise=True):
                self._note_away(error)
                return False
            if len(rows) == 1:
                letters.append(DeadLetter.of(lines[0], reason_of(error)))
                return True
        else:
            self._note_well()
            return True
        half = len(rows) // 2
        return self._sift(lines[:half], rows[:half], letters, worn) and self._sift(
            lines[half:], rows[half:], letters, worn
        )

    def _works(self, otherwise: bool = False) -> bool:
        """Whether rows can be written at all; ``otherwise`` where there is no way to ask."""
        if self._check is None:
            return otherwise
        try:
            self._check()
        except Exception:
            return False
        return True

    def _note_away(self, error: Exception) -> None:
        if self.last_error is None:
            log.warning("journal: Postgres is away, rows wait in %s", self.folder)
        self.last_error = reason_of(error)

    def _note_well(self) -> None:
        if self.last_error is not None:
            log.warning("journal: Postgres is back")
        self.last_error = None

    def _bury(self, letters: Sequence[DeadLetter]) -> None:
        """Raises OSError; then the segment stays, and its rows are looked at again."""
        if not letters:
            return
        fresh = self.dead_letters.add(letters)
        if fresh:
            log.error(
                "%s: rows refused by Postgres: %d, the last with %s; see: mixllm dead-letters list",
                self.folder.name,
                fresh,
                letters[-1].reason,
            )
            self._refused(fresh)


def is_away(error: BaseException) -> bool:
    """Whether an error says that nothing can be written now, rather than that a row is bad."""
    if isinstance(error, DatabaseAway | OSError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "pgcode", None)
    if code is None:
        return isinstance(error, OperationalError | InterfaceError)
    return code[:2] in AWAY_CLASSES or code in AWAY_CODES


def is_at(handle: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        there = path.stat()
    except OSError:
        return False
    mine = os.fstat(handle.fileno())
    return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)


def owner_of(path: Path) -> str:
    return path.stem.rpartition("-")[0]


def age(path: Path) -> tuple[int, str, str]:
    """What sorts segments as they were written: by their process's start, then by number."""
    owner, _, number = path.stem.rpartition("-")
    parts = owner.split("-")
    started = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
    return started, owner, number


def segments_of(folder: Path) -> list[Path]:
    """Every process's segments, the oldest first."""
    return sorted((p for p in folder.glob(f"*{SUFFIX}") if p.is_file()), key=age)


def count_lines(path: Path) -> int:
    """Lines of a file, one that was cut short left out."""
    with path.open("rb") as handle:
        return sum(block.count(b"\n") for block in iter(lambda: handle.read(2**20), b""))


def rows_waiting(folder: Path) -> int:
    """Rows in the segments of a folder."""
    total = 0
    for path in segments_of(folder):
        try:
            total += count_lines(path)
        except OSError:  # inserted meanwhile
            continue
    return total


def read_batches(
    path: Path, holding: bytes = b"", start: int = 0, upto: int | None = None
) -> Iterator[Batch]:
    """A segment's lines, a batch at a time; those that hold some bytes.

    A last line without its end was cut short by a crash: it was never accepted, and is left out.
    """
    try:
        handle = path.open("rb")
    except FileNotFoundError:  # another process has inserted it
        return
    with handle:
        handle.seek(start)
        lines: list[bytes] = []
        rows: list[dict[str, Any]] = []
        bad: list[DeadLetter] = []
        begun = place = start
        for raw in handle:
            if not raw.endswith(b"\n"):
                log.warning("journal: a line cut short in %s", path.name)
                break
            if upto is not None and place + len(raw) > upto:
                break
            place += len(raw)
            line = raw.strip()
            if line and holding in line:
                try:
                    rows.append(parse_line(line))
                    lines.append(line)
                except ValueError as error:
                    bad.append(DeadLetter.of(line, f"not a row: {error}"))
            if len(rows) + len(bad) >= BATCH_ROWS or place - begun >= BATCH_BYTES:
                yield Batch(begun, place, lines, rows, bad)
                lines, rows, bad, begun = [], [], [], place
        if lines or bad or place > begun:
            yield Batch(begun, place, lines, rows, bad)


def read_segment(path: Path) -> list[dict[str, Any]]:
    """A segment's rows."""
    return [row for batch in read_batches(path) for row in batch.rows]
