"""The windows that were checked for drift, as the store keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, insert, select, update

from models.drift.signals import Signal
from models.drift.windows import Window, figures
from models.errors import StoreError
from monitoring.drift.window_rows import Span
from monitoring.store.tables import drift_windows


@dataclass(frozen=True)
class KeptWindow:
    """A window that was checked.

    after, upto: its positions in the log.
    held_voters: those held when it was checked.
    report: the report's address; None before it is written.
    """

    id: int
    after: int
    upto: int
    started_at: datetime
    made_at: datetime
    figures: dict[str, Any]
    signals: tuple[Signal, ...]
    held_voters: tuple[str, ...]
    report: str | None

    @classmethod
    def of(cls, row: RowMapping) -> KeptWindow:
        values = {name: row[name] for name in cls.__dataclass_fields__}
        signals = tuple(Signal(**signal) for signal in row["signals"])
        return cls(**values | {"signals": signals, "held_voters": tuple(row["held_voters"])})


@dataclass(frozen=True)
class Compared:
    """A window beside its reference.

    span: where the window lies in the log.
    signals: what the comparison shows.
    past: the windows before, the oldest first.
    held_voters: those held now.
    """

    span: Span
    reference: Window
    window: Window
    signals: Sequence[Signal]
    past: Sequence[KeptWindow]
    held_voters: Sequence[str] = ()


def keep_window(connection: Connection, version: str, compared: Compared) -> int:
    """Write a release's window; returns its id."""
    span = compared.span
    values = {
        "release_digest": span.release,
        "release_version": version,
        "after": span.after,
        "upto": span.upto,
        "started_at": span.started_at,
        "ended_at": span.ended_at,
        "made_at": datetime.now(UTC),
        "decisions": span.decisions,
        "figures": figures(compared.window),
        "signals": [vars(signal) for signal in compared.signals],
        "held_voters": list(compared.held_voters),
    }
    made = insert(drift_windows).values(values).returning(drift_windows.c.id)
    return int(connection.execute(made).scalar_one())


def read_past(
    connection: Connection, release: str, since: int = 0, most: int = 50
) -> list[KeptWindow]:
    """A release's newest windows from a position on, the oldest first.

    A champion's begin after its reference: those before were a canary's.
    """
    ours = (
        select(drift_windows)
        .where(drift_windows.c.release_digest == release, drift_windows.c.after >= since)
        .order_by(drift_windows.c.upto.desc())
        .limit(most)
    )
    return [KeptWindow.of(row) for row in connection.execute(ours).mappings()][::-1]


def list_windows(engine: Engine, most: int = 50) -> list[dict[str, Any]]:
    """Every release's windows as rows, the newest first."""
    statement = select(drift_windows).order_by(drift_windows.c.id.desc()).limit(most)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def kept_window(engine: Engine, window_id: int) -> KeptWindow:
    """One window. Raises StoreError."""
    statement = select(drift_windows).where(drift_windows.c.id == window_id)
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise StoreError(f"no drift window {window_id}; see: mixllm drift list")
    return KeptWindow.of(row)


def set_report(engine: Engine, window_id: int, address: str) -> None:
    """Note where a window's report lies."""
    ours = drift_windows.c.id == window_id
    with engine.begin() as connection:
        connection.execute(update(drift_windows).where(ours).values(report=address))
