"""Alerts as the store keeps them: what was raised, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from models.errors import StoreError
from monitoring.store.audit import Step, note
from monitoring.store.tables import alerts

if TYPE_CHECKING:  # it imports SciPy, which the service does not load
    from models.drift.signals import Signal

OPEN, CLOSED = "open", "closed"


def last_raised(connection: Connection, release: str) -> dict[tuple[str, str | None], datetime]:
    """(alert, subject) → when it was raised last about a release; a new one starts anew."""
    statement = (
        select(alerts.c.name, alerts.c.subject, func.max(alerts.c.raised_at))
        .where(alerts.c.release_digest == release)
        .group_by(alerts.c.name, alerts.c.subject)
    )
    return {(name, subject): at for name, subject, at in connection.execute(statement)}


@dataclass(frozen=True)
class NewAlert:
    """An alert to open.

    mode: observe, propose or act.
    release_digest, release_version: of the release concerned.
    window_id: the window that shows it; 0 where none does.
    since: decisions after this position show it.
    """

    signal: Signal
    mode: str
    release_digest: str
    release_version: str
    window_id: int = 0
    since: int = 0


@dataclass(frozen=True)
class Alert:
    """An open alert.

    signal: the fields of the ``Signal`` that raised it.
    window_id, since_position, mode: see ``NewAlert``.
    """

    id: int
    name: str
    subject: str | None
    release_digest: str
    release_version: str
    window_id: int
    since_position: int
    raised_at: datetime
    signal: Mapping[str, Any]
    mode: str


def open_alert(connection: Connection, alert: NewAlert) -> int:
    """Keep a new alert, with its first line in the audit; returns its id."""
    signal = alert.signal
    values = {
        "name": signal.alert,
        "subject": signal.subject,
        "release_digest": alert.release_digest,
        "release_version": alert.release_version,
        "window_id": alert.window_id,
        "since_position": alert.since,
        "raised_at": datetime.now(UTC),
        "signal": vars(signal),
        "mode": alert.mode,
        "state": OPEN,
    }
    made = insert(alerts).values(values).returning(alerts.c.id)
    identity = int(connection.execute(made).scalar_one())
    why = f"{signal.what}: {signal.now:.4g}"
    result = f"alert {identity} is open, mode {alert.mode}"
    note(connection, Step("raise alert", why, result, identity, vars(signal)))
    return identity


def close_alert(engine: Engine, identity: int, outcome: str) -> None:
    """Close an alert with the outcome of its repair; the audit has the steps."""
    values = {"state": CLOSED, "outcome": outcome, "closed_at": datetime.now(UTC)}
    with engine.begin() as connection:
        connection.execute(update(alerts).where(alerts.c.id == identity).values(values))
        note(connection, Step("close alert", "its repair has ended", outcome, identity))


def list_alerts(
    engine: Engine, *, only_open: bool = False, most: int = 200
) -> list[dict[str, Any]]:
    """The newest first; open ones in the order in which they were raised."""
    statement = select(alerts).order_by(alerts.c.id.desc()).limit(most)
    if only_open:
        statement = select(alerts).where(alerts.c.state == OPEN).order_by(alerts.c.id)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def open_alerts(engine: Engine) -> list[Alert]:
    """In the order in which they were raised."""
    rows = list_alerts(engine, only_open=True)
    return [Alert(**{name: row[name] for name in Alert.__dataclass_fields__}) for row in rows]


def read_alert(engine: Engine, identity: int) -> dict[str, Any]:
    """Raises StoreError."""
    with engine.connect() as connection:
        row = connection.execute(select(alerts).where(alerts.c.id == identity)).mappings().first()
    if row is None:
        raise StoreError(f"no alert {identity}; see: mixllm alerts list")
    return dict(row)
