"""Pruning while the service serves: what votes are still taken on stays."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from infra.settings import Settings
from monitoring.retention import prune, remove_copies
from monitoring.store.answers import insert_answers, spent_this_month
from monitoring.store.decisions import (
    Asked,
    Fallback,
    fallback_row,
    insert_decisions,
    read_decision,
)
from monitoring.store.feedback import INSERT_LOCK, insert_feedback
from votes import vote

NO_RELEASES: Any = SimpleNamespace(alias=lambda _: None)


def decision(engine: Engine, days: float) -> dict[str, Any]:
    row = fallback_row(Fallback("a", "a test", 0.01, "1"), Asked("query", "none"), 0.001)
    row["decided_at"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    insert_decisions(engine, [row])
    return row


def there(engine: Engine, row: dict[str, Any]) -> bool:
    return read_decision(engine, UUID(row["id"])) is not None


def wait_until(what: Any) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_vote_on_its_way_keeps_its_decision(engine: Engine, settings: Settings) -> None:
    voted, other = decision(engine, 200), decision(engine, 200)
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    pruned = threading.Thread(target=prune, args=(engine, NO_RELEASES, settings))
    inserted = threading.Thread(target=insert_feedback, args=(engine, [vote(voted)]))

    def queue() -> int:
        with engine.connect() as connection:
            return int(connection.execute(waiting).scalar_one())

    with engine.begin() as holder:  # both wait for it, the vote first
        holder.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": INSERT_LOCK})
        inserted.start()
        wait_until(lambda: queue() == 1)
        pruned.start()
        wait_until(lambda: queue() == 2)
    inserted.join()
    pruned.join()
    assert there(engine, voted)
    assert not there(engine, other)


def test_while_votes_are_taken_a_decision_stays_however_short_it_is_to_be_kept(
    engine: Engine, settings: Settings
) -> None:
    short = settings.model_copy(update={"keep_days": 1.0, "keep_vote_days": 2.0})
    young, old = decision(engine, 20), decision(engine, 40)
    assert prune(engine, NO_RELEASES, short, dry=True)["decisions"] == 1
    assert prune(engine, NO_RELEASES, short)["decisions"] == 1
    assert there(engine, young)
    assert not there(engine, old)


def test_the_months_costs_stay_however_short_answers_are_to_be_kept(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = settings.model_copy(
        update={"keep_days": 1.0, "keep_vote_days": 1.0, "feedback_days": 1.0}
    )
    began = datetime.now(UTC) - timedelta(days=20)
    monkeypatch.setattr("monitoring.retention.month_start", lambda now: began)
    for days in (10, 30):
        row = decision(engine, days)
        answer = {
            "decision_id": row["id"], "finished_at": row["decided_at"], "llm": "a",
            "status": "answered", "attempts": [{}], "cost_usd": float(days), "seconds": 1.0,
            "streamed": False, "key_id": "k",
        }  # fmt: skip
        insert_answers(engine, [answer])
    assert prune(engine, NO_RELEASES, short)["answers"] == 1
    assert spent_this_month(engine, since=began) == {"k": 10.0}
    assert spent_this_month(engine, since=began - timedelta(days=99)) == {"k": 10.0}


def test_releases_that_are_running_or_being_fetched_stay(tmp_path: Path) -> None:
    old = time.time() - 10 * 86_400
    for name in ("1", "2", "3", ".fetch-abandoned"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        os.utime(tmp_path / "releases" / name, (old, old))
    (tmp_path / "releases" / ".fetch-now").mkdir()
    (tmp_path / "current-release").write_text("2\n")
    assert remove_copies(tmp_path, {"3"}, dry=True) == 2
    assert remove_copies(tmp_path, {"3"}, dry=False) == 2
    left = {folder.name for folder in (tmp_path / "releases").iterdir()}
    assert left == {"2", "3", ".fetch-now"}
