"""Looking for drift: the next window of a release's decisions against its first ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, select, update

from models.drift.alerts import Rules, raised
from models.drift.signals import Signal, find_signals
from models.drift.state_signals import poisoned, stale, unstable
from models.drift.windows import Window, figures
from models.errors import StoreError
from models.release.manifest import Manifest
from monitoring.drift.alert_log import last_raised, open_alert
from monitoring.drift.window_rows import (
    Span,
    count_of,
    first_position,
    first_span,
    read_window,
    span,
)
from monitoring.learning.policy_states import list_states
from monitoring.store.locks import take_lock
from monitoring.store.tables import alerts, drift_windows

DRIFT_LOCK: Final = 77_202_514
# Seldom chosen candidates are judged by the rows of so many windows, the newest included.
RECENT: Final = 4
# What waits so long makes a window, however few there are, from this number on.
PATIENCE: Final = timedelta(days=1)
LEAST: Final = 10


@dataclass(frozen=True)
class Sizes:
    """reference: decisions that a release is held against, its first. window: what is looked at at a
    time, at least."""

    reference: int
    window: int


@dataclass(frozen=True)
class Checked:
    """One look. said: in a sentence. window_id: None where it was too early to look. past: the windows
    before, the oldest first: made_at, figures. alerts: id → the signal that raised it."""

    said: str
    window_id: int | None = None
    span: Span | None = None
    reference: Window | None = None
    window: Window | None = None
    signals: Sequence[Signal] = ()
    past: Sequence[dict[str, Any]] = ()
    alerts: dict[int, Signal] | None = None


def check_drift(
    engine: Engine,
    manifest: Manifest,
    version: str,
    rules: Rules,
    sizes: Sizes,
    force: bool = False,
) -> Checked:
    """Look at what was decided since the last look; keeps the window and raises alerts, together.

    force: whatever has come since, be it ever so little. One look at a time: another one waits.
    """
    release = manifest.digest
    with engine.begin() as connection:
        take_lock(connection, DRIFT_LOCK)
        first = first_span(connection, release, sizes.reference)
        if first is None:
            have = count_of(connection, release, sizes.reference)
            return Checked(f"gathering the reference: {have} of {sizes.reference} decisions")
        past = read_past(connection, release, first.upto)
        after = past[-1]["upto"] if past else first.upto
        found = span(connection, release, after)
        if found is None or not (force or due(found, sizes.window)):
            have = found.decisions if found else 0
            return Checked(f"waiting for a window: {have} of {sizes.window} decisions")
        reference = read_window(connection, first, manifest.catalog)
        window = read_window(connection, found, manifest.catalog)
        recent = window
        if len(past) > 1:
            begin = past[-min(RECENT - 1, len(past))]["after"]
            wide = span(connection, release, begin, found.upto)
            recent = read_window(connection, wide or found, manifest.catalog)
        signals = find_signals(reference, window, recent, rules.thresholds)
        more, held = other_signals(engine, manifest, past, rules)
        signals = [*more, *signals]
        return conclude(connection, found, version, (reference, window), signals, held, past, rules)


def conclude(
    connection: Connection,
    found: Span,
    version: str,
    windows: tuple[Window, Window],
    signals: Sequence[Signal],
    held: Sequence[str],
    past: Sequence[dict[str, Any]],
    rules: Rules,
) -> Checked:
    """Keep the window and raise its alerts. windows: reference and window."""
    window_id = keep(connection, found, version, windows[1], signals, held)
    before = [(s["alert"], s["subject"]) for s in (past[-1]["signals"] if past else ()) if s["lit"]]
    new = raised(signals, before, last_raised(connection, found.release), rules, datetime.now(UTC))
    opened = {}
    for signal in new:
        # What a second window confirms began in the first.
        since = past[-1]["after"] if signal.key in before else found.after
        mode = rules[signal.alert].mode
        release = (found.release, version)
        opened[open_alert(connection, signal, mode, window_id, since, release)] = signal
    lit = sum(s.lit for s in signals)
    said = f"{found.decisions} decisions, {lit} signals lit, {len(opened)} alerts raised"
    return Checked(said, window_id, found, *windows, signals, past, opened)


def unreported(engine: Engine, manifest: Manifest, sizes: Sizes) -> list[Checked]:
    """A release's windows whose look died before its report was written, read again."""
    release, found = manifest.digest, []
    with engine.connect() as connection:
        first = first_span(connection, release, sizes.reference)
        if first is None:
            return []
        past = read_past(connection, release, first.upto)
        for number, row in enumerate(past):
            if row["report"] is not None:
                continue
            stretch = span(connection, release, row["after"], row["upto"])
            if stretch is None:  # its decisions were pruned since
                continue
            raised_then = select(alerts.c.id, alerts.c.signal).where(
                alerts.c.window_id == row["id"]
            )
            found.append(
                Checked(
                    f"window {row['id']}, whose report was never written",
                    row["id"],
                    stretch,
                    read_window(connection, first, manifest.catalog),
                    read_window(connection, stretch, manifest.catalog),
                    [Signal(**signal) for signal in row["signals"]],
                    past[:number],
                    {i: Signal(**signal) for i, signal in connection.execute(raised_then)},
                )
            )
    return found


def check_canary(
    engine: Engine, manifest: Manifest, version: str, champion: str, rules: Rules, sizes: Sizes
) -> Checked:
    """Look at what a canary decided since the last look, against the champion's decisions meanwhile.

    champion: its release's digest.
    """
    with engine.begin() as connection:
        take_lock(connection, DRIFT_LOCK)
        past = read_past(connection, manifest.digest)
        after = past[-1]["upto"] if past else 0
        found = span(connection, manifest.digest, after)
        if found is None or not due(found, sizes.window):
            have = found.decisions if found else 0
            return Checked(f"waiting for a window: {have} of {sizes.window} decisions")
        begin = first_position(connection, manifest.digest, after) - 1
        meanwhile = span(connection, champion, begin, found.upto)
        if meanwhile is None:
            return Checked("the champion has decided nothing meanwhile")
        reference = read_window(connection, meanwhile, manifest.catalog)
        window = read_window(connection, found, manifest.catalog)
        signals = find_signals(reference, window, window, rules.thresholds)
        # Votes are not counted by release: what comes for both says nothing of one.
        signals = [s for s in signals if s.alert != "feedback-drying-up"]
        return conclude(connection, found, version, (reference, window), signals, [], past, rules)


def waiting(engine: Engine, release: str, sizes: Sizes) -> tuple[bool, int]:
    """(whether a look would find a window, the position that it would begin after)."""
    with engine.connect() as connection:
        first = first_span(connection, release, sizes.reference)
        if first is None:
            return False, 0
        past = read_past(connection, release, first.upto, most=1)
        after = past[-1]["upto"] if past else first.upto
        found = span(connection, release, after)
        return found is not None and due(found, sizes.window), after


def due(found: Span, size: int) -> bool:
    """Whether a window is large enough, or has waited long enough."""
    waited = datetime.now(UTC) - found.started_at
    return found.decisions >= size or (waited > PATIENCE and found.decisions >= LEAST)


def other_signals(
    engine: Engine, manifest: Manifest, past: Sequence[dict[str, Any]], rules: Rules
) -> tuple[list[Signal], list[str]]:
    """(signals that no window of decisions shows, the voters held now)."""
    least = rules.thresholds
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.created)
    states = list_states(engine, manifest.digest)
    good = next((row for row in states if row["refused"] is None), None)
    held = good["statistics"]["held_voters"] if good else []
    known = past[-1]["held_voters"] if past else []
    since = past[-1]["made_at"] if past else None
    # A refused state tells once; the line of the good ones goes on.
    fresh = [r for r in states if r["refused"] is None or since is None or r["created_at"] > since]
    return [
        stale(age / timedelta(days=1), least["stale-release"]),
        *unstable(fresh, least["learning-unstable"]),
        *poisoned(held, known, least["feedback-poisoned"]),
    ], held


def keep(
    connection: Connection,
    found: Span,
    version: str,
    window: Window,
    signals: Sequence[Signal],
    held: Sequence[str],
) -> int:
    """Write the window; returns its id."""
    values = {
        "release_digest": found.release,
        "release_version": version,
        "after": found.after,
        "upto": found.upto,
        "started_at": found.started_at,
        "ended_at": found.ended_at,
        "made_at": datetime.now(UTC),
        "decisions": found.decisions,
        "figures": figures(window),
        "signals": [vars(signal) for signal in signals],
        "held_voters": list(held),
    }
    made = insert(drift_windows).values(values).returning(drift_windows.c.id)
    return int(connection.execute(made).scalar_one())


def read_past(
    connection: Connection, release: str, since: int = 0, most: int = 50
) -> list[dict[str, Any]]:
    """A release's windows from a position on, the oldest of the newest first. A champion's begin after
    its reference: those before were a canary's."""
    ours = (
        select(drift_windows)
        .where(drift_windows.c.release_digest == release, drift_windows.c.after >= since)
        .order_by(drift_windows.c.upto.desc())
        .limit(most)
    )
    return [dict(row) for row in connection.execute(ours).mappings()][::-1]


def list_windows(engine: Engine, most: int = 50) -> list[dict[str, Any]]:
    """Every release's windows, the newest first."""
    statement = select(drift_windows).order_by(drift_windows.c.id.desc()).limit(most)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def read_window_row(engine: Engine, window_id: int) -> dict[str, Any]:
    """One window as it was kept. Raises StoreError."""
    statement = select(drift_windows).where(drift_windows.c.id == window_id)
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise StoreError(f"no drift window {window_id}; see: mixllm drift list")
    return dict(row)


def set_report(engine: Engine, window_id: int, address: str) -> None:
    """Where a window's report lies."""
    ours = drift_windows.c.id == window_id
    with engine.begin() as connection:
        connection.execute(update(drift_windows).where(ours).values(report=address))
