"""Retention: deletes what is old and no longer needed; keeps what drift is measured against."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, delete, func, select

from infra.registry.records import ALIASES
from infra.registry.registry import Registry
from infra.settings import Settings
from models.release.manifest import read_manifest
from monitoring.drift.report import whole_page
from monitoring.store.answers import month_start
from monitoring.store.audit import Step, note
from monitoring.store.feedback import INSERT_LOCK
from monitoring.store.locks import take_lock
from monitoring.store.tables import (
    answers,
    decisions,
    drift_windows,
    feedback,
    policy_states,
    shadows,
)

BATCH: Final = 20_000
YOUNG_SECONDS: Final = 86_400.0
# Names the release that a service starts with before it has asked the registry.
CURRENT_FILE: Final = "current-release"


def prune(
    engine: Engine, registry: Registry, settings: Settings, *, dry: bool = False
) -> dict[str, int]:
    """Delete what is older than the settings keep; returns how much of what.

    dry: only count.

    Decisions without votes go after ``keep_days``; those with votes, and the votes, after
    ``keep_vote_days``. A named release's first decisions stay, since drift is measured against them.
    Reports and windows, shadows, policy states of releases without an alias and their local copies
    go too.
    """
    at = datetime.now(UTC)
    # A decision stays as long as votes on it are accepted, and a day for votes in a journal.
    judged = settings.feedback_days + 1
    days = (max(settings.keep_days, judged), max(settings.keep_vote_days, judged))
    old, older = (at - timedelta(days=d) for d in days)
    named = named_releases(registry)
    spared = reference_ids(engine, list(named.values()), settings.drift_reference)
    voted = select(feedback.c.decision_id)
    doomed = (
        (decisions.c.decided_at < old)
        & decisions.c.id.not_in(spared)
        & ((decisions.c.decided_at < older) | decisions.c.id.not_in(voted))
    )
    gone = {"decisions": remove(engine, decisions, doomed, dry=dry)}
    kept = select(decisions.c.id).where(~doomed)  # when nothing is only counted: all that are left
    for table, column, limit in (
        # Budgets are checked against the month's answers.
        (answers, answers.c.finished_at, min(old, month_start(at))),
        (feedback, feedback.c.received_at, older),
    ):
        orphan = (column < limit) & table.c.decision_id.not_in(kept)
        gone[table.name] = remove(engine, table, orphan, dry=dry)
    gone["shadows"] = remove(engine, shadows, shadows.c.decided_at < old, dry=dry)
    gone["policy_states"] = remove_states(engine, list(named.values()), old, dry=dry)
    gone["reports"] = remove_reports(engine, registry, settings.home, old, dry=dry)
    gone["local copies"] = remove_copies(settings.home / "registry", set(named), dry=dry)
    if not dry and any(gone.values()):
        why = f"kept: {settings.keep_days:g} days, with votes {settings.keep_vote_days:g}"
        removed = ", ".join(f"{n} {what}" for what, n in gone.items() if n)
        note(engine, Step("prune", why, removed))
    return gone


def named_releases(registry: Registry) -> dict[str, str]:
    """Version → digest of the releases that an alias names."""
    versions = {registry.alias(alias) for alias in ALIASES} - {None}
    return {v: read_manifest(registry.fetch(v)).digest for v in versions if v is not None}


def reference_ids(engine: Engine, releases: list[str], count: int) -> list[Any]:
    """The first decisions of each release."""
    ids: list[Any] = []
    with engine.connect() as connection:
        for release in releases:
            ours = select(decisions.c.id).where(decisions.c.release_digest == release)
            first = ours.order_by(decisions.c.position).limit(count)
            ids += connection.execute(first).scalars().all()
    return ids


def remove(engine: Engine, table: Any, where: ColumnElement[bool], *, dry: bool) -> int:
    """Delete rows, a batch a transaction; returns how many there are or were."""
    if dry:
        with engine.connect() as connection:
            counted = select(func.count()).select_from(table).where(where)
            return int(connection.execute(counted).scalar_one())
    (key,) = table.primary_key.columns
    gone = 0
    while True:
        batch = select(key).where(where).limit(BATCH)
        with engine.begin() as connection:
            if table is decisions:  # no vote on one of them may be on its way into the log
                take_lock(connection, INSERT_LOCK)
            count = connection.execute(delete(table).where(key.in_(batch))).rowcount
        gone += count
        if count < BATCH:
            return gone


def remove_states(engine: Engine, named: list[str], old: datetime, *, dry: bool) -> int:
    """Old policy states of releases that no alias names, but the newest of each."""
    newest = select(func.max(policy_states.c.version)).group_by(policy_states.c.release_digest)
    where = (
        (policy_states.c.created_at < old)
        & policy_states.c.release_digest.not_in(named)
        & policy_states.c.version.not_in(newest)
    )
    return remove(engine, policy_states, where, dry=dry)


def remove_reports(
    engine: Engine, registry: Registry, home: Path, old: datetime, *, dry: bool
) -> int:
    """Pages and windows of long ago; the last window of each release stays, the next begins there."""
    last = select(func.max(drift_windows.c.id)).group_by(drift_windows.c.release_digest)
    where = (drift_windows.c.made_at < old) & drift_windows.c.id.not_in(last)
    if dry:
        return remove(engine, drift_windows, where, dry=dry)
    columns = (drift_windows.c.id, drift_windows.c.release_version)
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(where)).all()
    for window, version in rows:
        page = home / "drift" / f"window-{window}.html"
        for file in (page, whole_page(page)):
            file.unlink(missing_ok=True)
            registry.remove_file(version, f"drift/{file.name}")
    for file in (home / "evidently").glob("*/snapshots/*.json"):
        if file.stat().st_mtime < old.timestamp():
            file.unlink()
    return remove(engine, drift_windows, where, dry=dry)


def remove_copies(home: Path, named: set[str], *, dry: bool) -> int:
    """Releases fetched to this machine that no alias names; they are fetched again when needed.

    The one that a service would start with stays, and so does what was fetched within the last day,
    or is being fetched.
    """
    marker = home / CURRENT_FILE
    spared = named | ({marker.read_text().strip()} if marker.is_file() else set())
    young = datetime.now(UTC).timestamp() - YOUNG_SECONDS
    folders = [
        f
        for f in (home / "releases").glob("*")
        if f.is_dir() and f.name not in spared and f.stat().st_mtime < young
    ]
    if not dry:
        for folder in folders:
            shutil.rmtree(folder)
    return len(folders)
