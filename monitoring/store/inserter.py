"""Inserts segments into Postgres, and tells rows that it refuses from an outage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from monitoring.store.availability import DatabaseAway, is_away
from monitoring.store.dead_letters import DeadLetter, DeadLetters, reason_of
from monitoring.store.segments import read_batches

log = logging.getLogger("mixllm.journal")

# So often a batch may fail as if Postgres were away while it is well: then its rows are to blame.
PATIENCE: Final = 5


@dataclass(frozen=True)
class Sink:
    """Where rows go.

    insert: writes rows in one transaction, harmless when they are there already.
    check: raises where no row at all can be written now; None where there is no way to ask.
    """

    insert: Callable[[Sequence[dict[str, Any]]], None]
    check: Callable[[], None] | None = None


@dataclass(frozen=True)
class Progress:
    """How far a file has been inserted.

    position: the byte to go on from.
    rows: inserted or refused so far.
    """

    position: int = 0
    rows: int = 0


class Inserter:
    """Moves the rows of segments into a sink; those that it refuses become dead letters.

    folder: where the segments lie.
    refused: called with how many rows have become dead letters.
    """

    def __init__(self, folder: Path, sink: Sink, refused: Callable[[int], None]) -> None:
        self.folder = folder
        self.dead_letters = DeadLetters(folder)
        # Why rows wait, while Postgres is away.
        self.last_error: str | None = None
        self._sink, self._refused = sink, refused
        self._progress: dict[Path, Progress] = {}
        self._failures: dict[tuple[Path, int], int] = {}

    def insert(self, path: Path, upto: int | None = None) -> bool:
        """Insert what a segment holds beyond what was inserted before, a batch at a time.

        Returns False where Postgres is away. Raises OSError where the file cannot be read, or no dead
        letter written.
        """
        for batch in read_batches(path, start=self._progress_of(path).position, upto=upto):
            letters = list(batch.bad)
            worn = self._failures.get((path, batch.start), 0) >= PATIENCE
            try:
                done = not batch.rows or self._sift(batch.lines, batch.rows, letters, worn=worn)
            finally:
                self.bury(letters)
            if not done:
                if self._works():
                    key = (path, batch.start)
                    self._failures = {key: self._failures.get(key, 0) + 1}
                return False
            self._failures.pop((path, batch.start), None)
            rows = self.rows_done(path) + len(batch.rows) + len(batch.bad)
            self._progress[path] = Progress(batch.end, rows)
        return True

    def rows_done(self, path: Path) -> int:
        """How many rows of a file were inserted or refused."""
        return self._progress_of(path).rows

    def forget(self, path: Path) -> None:
        """Its file is gone, or empty."""
        self._progress.pop(path, None)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters. Raises OSError; then the segment stays, and its rows are tried again."""
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

    def _progress_of(self, path: Path) -> Progress:
        return self._progress.get(path, Progress())

    def _sift(
        self,
        lines: Sequence[bytes],
        rows: Sequence[dict[str, Any]],
        letters: list[DeadLetter],
        *,
        worn: bool,
    ) -> bool:
        """Insert what Postgres takes; the rest becomes letters, by halves. False where it is away.

        worn: if Postgres says that it is away and its table can be written, blame the rows.
        """
        try:
            self._sink.insert(rows)
        except Exception as error:  # noqa: BLE001 - what a bad row raises depends on its content
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
        return self._sift(lines[:half], rows[:half], letters, worn=worn) and self._sift(
            lines[half:], rows[half:], letters, worn=worn
        )

    def _works(self, *, otherwise: bool = False) -> bool:
        """Whether rows can be written at all; ``otherwise`` where there is no way to ask."""
        if self._sink.check is None:
            return otherwise
        try:
            self._sink.check()
        except Exception:  # noqa: BLE001 - however a check fails, nothing can be written
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
