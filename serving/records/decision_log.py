"""Decisions and their answers: kept, and looked up by id."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from fastapi import HTTPException

from monitoring.store.answers import charged, read_answer
from monitoring.store.decisions import read_decision
from monitoring.store.journal import Journal
from serving.access.keys import KeyRing
from serving.recent import MAX_ROWS, Recent
from serving.records.connection import StoreConnection
from serving.records.journals import Journals

log = logging.getLogger("mixllm.answers")

HIDDEN = frozenset({"embedding", "form", "key_id"})


class DecisionLog:
    """Safe to use from several threads."""

    def __init__(self, journals: Journals, store: StoreConnection, keys: KeyRing) -> None:
        self._decisions, self._answers = journals["decisions"], journals["answers"]
        self._journals, self._store, self._keys = journals, store, keys
        self._recent = Recent()

    def recall(self) -> list[dict[str, Any]]:
        """Remember the rows that a killed process left in files; a vote on them waits for nothing.

        Returns the answers among them.
        """
        self._recall(self._decisions, "id", "")
        return self._recall(self._answers, "decision_id", "answer ")

    def _recall(self, journal: Journal, column: str, prefix: str) -> list[dict[str, Any]]:
        rows = []
        try:
            for row in journal.files.newest(MAX_ROWS):
                # A row without its id is dealt with when it is inserted.
                if isinstance(identity := row.get(column), str):
                    self._recent.put(prefix + identity, row)
                    rows.append(row)
        except OSError as error:
            log.error("%s cannot be read: %s", journal.folder, error)
        return rows

    def keep(self, row: dict[str, Any]) -> None:
        """Keep a decision."""
        self._journals.keep("decisions", row)
        self._recent.put(row["id"], row)

    def keep_answer(self, row: dict[str, Any]) -> None:
        """Keep what became of a decision; the first answer to it stays."""
        self._keys.settle(row["key_id"], row["decision_id"], charged(row))
        self._journals.keep("answers", row)
        self._recent.put(f"answer {row['decision_id']}", row)

    def remembers(self, identity: str) -> bool:
        """Whether a decision is known without Postgres."""
        return self._recent.get(identity.lower()) is not None

    def owned(
        self, identity: UUID, key_id: str | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The rows of a decision that belongs to the caller, and of its answer.

        Raises HTTPException, the same for a foreign decision and for none: ids tell nothing.
        """
        row, answer = self.rows_of(identity)
        if row is None or not self._keys.owns(key_id, row.get("key_id")):
            raise HTTPException(404, f"no decision {identity} of yours")
        return row, answer

    def shown(self, identity: UUID, key_id: str | None) -> dict[str, Any]:
        """A decision and its answer as their owner may see them. Raises HTTPException."""
        row, answer = self.owned(identity, key_id)
        return {**{k: v for k, v in row.items() if k not in HIDDEN}, "answer": answer}

    def rows_of(self, identity: UUID) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """A decision's row and its answer's: from memory while recent, else from Postgres, else from
        the files of this machine's other processes."""
        name = str(identity)
        if (row := self._recent.get(name)) is not None:
            return row, self._recent.get(f"answer {name}")
        engine = self._store.engine
        if (row := read_decision(engine, identity)) is not None:
            return row, read_answer(engine, identity)
        row = self._decisions.files.find("id", name)
        return row, self._answers.files.find("decision_id", name) if row is not None else None
