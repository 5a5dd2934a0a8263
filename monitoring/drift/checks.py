"""Checks for drift: the next window of a release's decisions against its first ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine, select

from models.drift.alerts import Rules, raised
from models.drift.signals import Signal, find_signals
from models.drift.state_signals import poisoned, stale, unstable
from models.release.manifest import Manifest
from monitoring.drift.alert_log import NewAlert, last_raised, open_alert
from monitoring.drift.window_log import Compared, KeptWindow, keep_window, read_past
from monitoring.drift.window_rows import (
    Span,
    count_of,
    first_position,
    first_span,
    read_span,
    read_window,
)
from monitoring.learning.policy_states import list_states
from monitoring.store.locks import take_lock
from monitoring.store.tables import alerts

DRIFT_LOCK: Final = 77_202_514
# Seldom chosen candidates are judged by the rows of so many windows, the newest included.
RECENT: Final = 4
# What waits so long makes a window, however few there are, from this number on.
PATIENCE: Final = timedelta(days=1)
LEAST: Final = 10


@dataclass(frozen=True)
class Sizes:
    """Numbers of decisions.

    reference: a release's first ones, which later ones are compared with.
    window: checked at a time, at least.
    """

    reference: int
    window: int


@dataclass(frozen=True)
class Watched:
    """A release whose decisions are checked."""

    version: str
    manifest: Manifest


@dataclass(frozen=True)
class TooEarly:
    """No window was checked; the message says why."""

    message: str


@dataclass(frozen=True)
class CheckedWindow:
    """A window after its check.

    message: the result in a sentence.
    alerts: id → the signal that raised it.
    """

    id: int
    message: str
    compared: Compared
    alerts: Mapping[int, Signal]


def check_drift(
    engine: Engine, release: Watched, rules: Rules, sizes: Sizes, *, force: bool = False
) -> CheckedWindow | TooEarly:
    """Check what was decided since the last check; keeps the window and raises alerts, together.

    force: however few decisions have come since. One check at a time: another one waits.
    """
    manifest, digest = release.manifest, release.manifest.digest
    with engine.begin() as connection:
        take_lock(connection, DRIFT_LOCK)
        first = first_span(connection, digest, sizes.reference)
        if first is None:
            have = count_of(connection, digest, sizes.reference)
            return TooEarly(f"gathering the reference: {have} of {sizes.reference} decisions")
        past = read_past(connection, digest, first.upto)
        span = read_span(connection, digest, past[-1].upto if past else first.upto)
        if span is None or not (force or due(span, sizes.window)):
            return waiting_for_window(span, sizes)
        reference = read_window(connection, first, manifest.catalog)
        window = read_window(connection, span, manifest.catalog)
        recent = window
        if len(past) > 1:
            begin = past[-min(RECENT - 1, len(past))].after
            wide = read_span(connection, digest, begin, span.upto)
            recent = read_window(connection, wide or span, manifest.catalog)
        others, held = other_signals(engine, manifest, past, rules)
        signals = [*others, *find_signals(reference, window, recent, rules.thresholds)]
        compared = Compared(span, reference, window, signals, past, held)
        return conclude(connection, release.version, compared, rules)


def waiting_for_window(span: Span | None, sizes: Sizes) -> TooEarly:
    have = span.decisions if span else 0
    return TooEarly(f"waiting for a window: {have} of {sizes.window} decisions")


def conclude(
    connection: Connection, version: str, compared: Compared, rules: Rules
) -> CheckedWindow:
    """Keep a release's window and raise its alerts."""
    window_id, span = keep_window(connection, version, compared), compared.span
    previous = compared.past[-1] if compared.past else None
    before = [s.key for s in previous.signals if s.lit] if previous else []
    last = last_raised(connection, span.release)
    opened = {}
    for signal in raised(compared.signals, before, last, rules, datetime.now(UTC)):
        # What a second window confirms began in the first.
        since = previous.after if previous and signal.key in before else span.after
        mode = rules[signal.alert].mode
        alert = NewAlert(signal, mode, span.release, version, window_id, since)
        opened[open_alert(connection, alert)] = signal
    lit = sum(s.lit for s in compared.signals)
    message = f"{span.decisions} decisions, {lit} signals lit, {len(opened)} alerts raised"
    return CheckedWindow(window_id, message, compared, opened)


def unreported(engine: Engine, manifest: Manifest, sizes: Sizes) -> list[CheckedWindow]:
    """A release's windows whose check died before its report was written, read again."""
    release, windows = manifest.digest, []
    with engine.connect() as connection:
        first = first_span(connection, release, sizes.reference)
        if first is None:
            return []
        past = read_past(connection, release, first.upto)
        for number, kept in enumerate(past):
            if kept.report is not None:
                continue
            span = read_span(connection, release, kept.after, kept.upto)
            if span is None:  # its decisions were pruned since
                continue
            ours = select(alerts.c.id, alerts.c.signal).where(alerts.c.window_id == kept.id)
            opened = {i: Signal(**signal) for i, signal in connection.execute(ours)}
            reference = read_window(connection, first, manifest.catalog)
            window = read_window(connection, span, manifest.catalog)
            compared = Compared(span, reference, window, kept.signals, past[:number])
            message = f"window {kept.id}, whose report was never written"
            windows.append(CheckedWindow(kept.id, message, compared, opened))
    return windows


def check_canary(
    engine: Engine, canary: Watched, champion: str, rules: Rules, sizes: Sizes
) -> CheckedWindow | TooEarly:
    """Check what a canary decided since the last check, against the champion's decisions meanwhile.

    champion: its release's digest.
    """
    manifest, digest = canary.manifest, canary.manifest.digest
    with engine.begin() as connection:
        take_lock(connection, DRIFT_LOCK)
        past = read_past(connection, digest)
        after = past[-1].upto if past else 0
        span = read_span(connection, digest, after)
        if span is None or not due(span, sizes.window):
            return waiting_for_window(span, sizes)
        begin = first_position(connection, digest, after) - 1
        meanwhile = read_span(connection, champion, begin, span.upto)
        if meanwhile is None:
            return TooEarly("the champion has decided nothing meanwhile")
        reference = read_window(connection, meanwhile, manifest.catalog)
        window = read_window(connection, span, manifest.catalog)
        signals = find_signals(reference, window, window, rules.thresholds)
        # Votes are not counted by release: what comes for both says nothing of one.
        signals = [s for s in signals if s.alert != "feedback-drying-up"]
        compared = Compared(span, reference, window, signals, past)
        return conclude(connection, canary.version, compared, rules)


def waiting(engine: Engine, release: str, sizes: Sizes) -> tuple[bool, int]:
    """(whether a check would find a window, the position that it would begin after)."""
    with engine.connect() as connection:
        first = first_span(connection, release, sizes.reference)
        if first is None:
            return False, 0
        past = read_past(connection, release, first.upto, most=1)
        after = past[-1].upto if past else first.upto
        span = read_span(connection, release, after)
        return span is not None and due(span, sizes.window), after


def due(span: Span, size: int) -> bool:
    """Whether a window is large enough, or has waited long enough."""
    waited = datetime.now(UTC) - span.started_at
    return span.decisions >= size or (waited > PATIENCE and span.decisions >= LEAST)


def other_signals(
    engine: Engine, manifest: Manifest, past: Sequence[KeptWindow], rules: Rules
) -> tuple[list[Signal], list[str]]:
    """(signals that no window of decisions shows, the voters held now)."""
    least = rules.thresholds
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.created)
    states = list_states(engine, manifest.digest)
    good = next((row for row in states if row["refused"] is None), None)
    held = good["statistics"]["held_voters"] if good else []
    known = past[-1].held_voters if past else ()
    since = past[-1].made_at if past else None
    # A refused state is reported once; the good ones make the line through time.
    fresh = [r for r in states if r["refused"] is None or since is None or r["created_at"] > since]
    return [
        stale(age / timedelta(days=1), least["stale-release"]),
        *unstable(fresh, least["learning-unstable"]),
        *poisoned(held, known, least["feedback-poisoned"]),
    ], held
