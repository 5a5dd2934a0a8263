"""The alert about rows that Postgres refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from monitoring.store.dead_letters import DeadLetter

ALERT: Final = "rows-refused"


def raise_alert(
    engine: Engine,
    journal: str,
    letters: Sequence[DeadLetter],
    release: tuple[str, str],
    rules_file: Path | None = None,
) -> int | None:
    """Open an alert about a journal's dead letters; returns its id, None while the last one cools down.

    release: digest and version of the champion.
    """
    from models.drift.alerts import read_rules
    from models.drift.signals import Signal
    from monitoring.drift.alert_log import NewAlert, last_raised, open_alert

    rule = read_rules(rules_file)[ALERT]
    what = "rows that Postgres refused"
    if letters:
        what = f"{what}, the last with {letters[-1].reason}"
    count = len(letters)
    signal = Signal(ALERT, journal, what, None, count, count, 1.0, None, count, lit=True)
    with engine.begin() as connection:
        last = last_raised(connection, release[0]).get(signal.key)
        cooling = timedelta(hours=rule.cooldown_hours)
        if last is not None and abs(datetime.now(UTC) - last) < cooling:
            return None
        return open_alert(connection, NewAlert(signal, rule.mode, *release))
