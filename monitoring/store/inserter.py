"""Inserts rows into Postgres, and tells those that it refuses from an outage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monitoring.store.availability import DatabaseAway, is_away
from monitoring.store.dead_letters import DeadLetter, reason_of

log = logging.getLogger("mixllm.journal")

Insert = Callable[[Sequence[dict[str, Any]]], None]


class Inserter:
    """folder: where the rows wait, for the log.

    insert: writes rows in one transaction, harmless when they are there already.
    check: raises where no row at all can be written now.
    """

    def __init__(self, folder: Path, insert: Insert, check: Callable[[], None] | None) -> None:
        self.folder = folder
        self.last_error: str | None = None
        self._insert, self._check = insert, check

    def sift(
        self,
        lines: Sequence[bytes],
        rows: Sequence[dict[str, Any]],
        letters: list[DeadLetter],
        *,
        worn: bool,
    ) -> bool:
        """Insert what Postgres takes; the rest becomes letters, by halves. False where it is away.

        worn: take Postgres's word for it that it is away no longer, if its table can be written.
        """
        try:
            self._insert(rows)
        except Exception as error:
            waits = isinstance(error, DatabaseAway | OSError)
            away = waits or (is_away(error) and not (worn and self.works()))
            if away or not self.works(otherwise=True):
                self._note_away(error)
                return False
            if len(rows) == 1:
                letters.append(DeadLetter.of(lines[0], reason_of(error)))
                return True
        else:
            self._note_well()
            return True
        half = len(rows) // 2
        return self.sift(lines[:half], rows[:half], letters, worn=worn) and self.sift(
            lines[half:], rows[half:], letters, worn=worn
        )

    def works(self, *, otherwise: bool = False) -> bool:
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
