"""Which journals there are: where each lies, what its rows are, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, Table

from monitoring.store import tables
from monitoring.store.answers import insert_answers
from monitoring.store.dead_letters import DeadLetters
from monitoring.store.decisions import insert_decisions
from monitoring.store.feedback import insert_feedback
from monitoring.store.releases import insert_releases
from monitoring.store.segments import rows_waiting
from monitoring.store.shadows import insert_shadows


@dataclass(frozen=True)
class JournalKind:
    """One kind of row.

    folder: its name in home.
    synced: whether a row is on the disk before it is acknowledged.
    """

    folder: str
    table: Table
    insert: Callable[[Engine, Sequence[dict[str, Any]]], None]
    synced: bool = False


JOURNALS: Final = {
    "releases": JournalKind("journal-releases", tables.releases, insert_releases),
    "decisions": JournalKind("journal", tables.decisions, insert_decisions),
    "answers": JournalKind("journal-answers", tables.answers, insert_answers),
    "feedback": JournalKind("journal-feedback", tables.feedback, insert_feedback, synced=True),
    "shadows": JournalKind("journal-shadows", tables.shadows, insert_shadows),
}


def unwritten_rows(home: Path) -> dict[str, int]:
    """Journal → rows of this machine that wait for Postgres, of every process, dead or alive."""
    return {name: rows_waiting(home / kind.folder) for name, kind in JOURNALS.items()}


def dead_letters_of(home: Path) -> dict[str, DeadLetters]:
    """Journal → its dead letters on this machine."""
    return {name: DeadLetters(home / kind.folder) for name, kind in JOURNALS.items()}
