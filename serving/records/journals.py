"""The process's journals: rows go to a file first, and from there to Postgres."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine

from infra.settings import Settings
from monitoring.drift.refused_rows import raise_alert
from monitoring.store.availability import DatabaseAway
from monitoring.store.inserter import Sink
from monitoring.store.journal import Journal
from monitoring.store.journals import JOURNALS
from monitoring.store.rows import check_table
from serving import metrics
from serving.records.connection import StoreConnection

log = logging.getLogger("mixllm.answers")


class Journals:
    """One journal for each kind of row.

    running: the digest and version of the release that answers; an alert about rows names it.
    """

    def __init__(
        self, settings: Settings, store: StoreConnection, running: Callable[[], tuple[str, str]]
    ) -> None:
        self._settings, self._store, self._running = settings, store, running
        self.by_name = {name: self._journal(name) for name in JOURNALS}

    def __getitem__(self, name: str) -> Journal:
        return self.by_name[name]

    def start(self) -> None:
        for journal in self.by_name.values():
            journal.start()

    def close(self) -> None:
        for journal in self.by_name.values():
            journal.close()

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row. A full disk must not fail the caller's request: a lost row is counted."""
        if not self.by_name[name].keep(row):
            metrics.rows_lost.labels(name).inc()

    @property
    def database_error(self) -> str | None:
        errors = (journal.last_error for journal in self.by_name.values())
        return next((error for error in errors if error is not None), None)

    @property
    def disk_error(self) -> str | None:
        errors = (journal.disk_error for journal in self.by_name.values())
        return next((error for error in errors if error is not None), None)

    def _journal(self, name: str) -> Journal:
        kind = JOURNALS[name]

        def engine() -> Engine:
            try:
                return self._store.engine
            except Exception as error:  # rows wait, whatever the reason
                raise DatabaseAway(str(error).partition("\n")[0]) from error

        def insert(rows: Sequence[dict[str, Any]]) -> None:
            # Votes go after what they are about: whoever reads a vote finds its decision.
            before = ("releases", "decisions", "answers") if name == "feedback" else ()
            if not all(self.by_name[earlier].flush() for earlier in before):
                raise DatabaseAway("the decisions that votes are about wait for Postgres")
            kind.insert(engine(), rows)

        return Journal(
            self._settings.home / kind.folder,
            Sink(insert, check=lambda: check_table(engine(), kind.table)),
            self._settings.flush_seconds,
            synced=kind.synced,
            refused=lambda rows: self._raise_alert(name, rows),
        )

    def _raise_alert(self, name: str, rows: int) -> None:
        """Rows have become dead letters: notify people."""
        metrics.rows_refused.labels(name).inc(rows)
        try:
            letters = self.by_name[name].dead_letters.read()
            alerts = self._settings.alerts
            raise_alert(self._store.engine, name, letters, self._running(), alerts)
        except Exception as error:  # noqa: BLE001 - the inserter must go on; the metric shows the rows
            log.error("no alert could be raised: %s", str(error).partition("\n")[0])
