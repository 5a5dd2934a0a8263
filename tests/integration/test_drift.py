"""Windows read from Postgres, checked and kept."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from logs import log_decisions
from models.drift.alerts import read_rules
from models.release.release import Release
from monitoring.drift.alert_log import close_alert, list_alerts, read_alert
from monitoring.drift.checks import Sizes, TooEarly, Watched, check_canary, check_drift, waiting
from monitoring.drift.window_log import list_windows
from monitoring.drift.window_rows import first_span, read_span, read_window
from monitoring.learning.logged_votes import last_vote_before
from monitoring.store.audit import Step, note, read_audit
from monitoring.store.decisions import insert_decisions
from monitoring.store.feedback import insert_feedback
from monitoring.store.releases import insert_releases, release_row
from votes import decide, vote

RULES = read_rules(None)
SIZES = Sizes(reference=200, window=100)
Send = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


@pytest.fixture
def send(engine: Engine, release: Release) -> Send:
    """Decisions with an answer and a vote each, as good as predicted unless a test says otherwise."""
    insert_releases(engine, [release_row(release.manifest, "1")])
    rng = np.random.default_rng(0)
    return partial(log_decisions, engine, release, rng)


def look(engine: Engine, release: Release, **more: Any) -> Any:
    return check_drift(engine, Watched("1", release.manifest), RULES, SIZES, **more)


def test_a_release_gathers_its_reference_first(
    engine: Engine, release: Release, send: Send
) -> None:
    send(150)
    assert look(engine, release).message == "gathering the reference: 150 of 200 decisions"
    assert waiting(engine, release.digest, SIZES) == (False, 0)
    send(99)
    assert look(engine, release).message == "waiting for a window: 49 of 100 decisions"
    assert list_windows(engine) == []


def test_without_drift_nothing_is_raised(engine: Engine, release: Release, send: Send) -> None:
    send(200)
    for _ in range(3):
        send(100)
        assert waiting(engine, release.digest, SIZES)[0]
        checked = look(engine, release)
        assert (checked.compared.span.decisions, checked.alerts) == (100, {})
    windows = list_windows(engine)
    assert [row["decisions"] for row in windows] == [100, 100, 100]
    assert windows[0]["after"] == windows[1]["upto"]
    assert list_alerts(engine) == []


def test_a_worse_llm_is_raised_once_with_its_evidence(
    engine: Engine, release: Release, send: Send
) -> None:
    send(200)
    send(100)
    look(engine, release)
    rows = send(100, worse=0.4)
    checked = look(engine, release)
    names = {(s.alert, s.subject) for s in checked.alerts.values()}
    chosen = {row["llm"] for row in rows}
    assert names <= {("predictor-drift", name) for name in chosen}
    assert names
    send(100, worse=0.4)
    again = look(engine, release).alerts.values()
    assert names.isdisjoint((s.alert, s.subject) for s in again), "it cools down"
    for row in list_alerts(engine):
        assert (row["state"], row["mode"]) == ("open", "propose")
        assert row["signal"]["now"] < row["signal"]["reference"] - 0.1
        assert row["since_position"] in [w["after"] for w in list_windows(engine)[:2]]
        (step,) = read_audit(engine, row["id"])
        assert step["what"] == "raise alert"
        assert step["evidence"]["p_value"] < 0.01


def test_unseen_domains(engine: Engine, release: Release, send: Send) -> None:
    send(200, unseen=0.02)
    send(100, unseen=0.3)
    assert [s.alert for s in look(engine, release).alerts.values()] == ["unseen-domains"]


def test_two_looks_at_once_find_one_window(engine: Engine, release: Release, send: Send) -> None:
    from concurrent.futures import ThreadPoolExecutor

    send(300)
    with ThreadPoolExecutor(2) as pool:
        checked = list(pool.map(lambda _: look(engine, release), range(2)))
    assert sorted(isinstance(f, TooEarly) for f in checked) == [False, True]
    assert len(list_windows(engine)) == 1


def test_what_waits_too_long_is_looked_at_however_little(
    engine: Engine, release: Release, send: Send
) -> None:
    send(200)
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    send(10, decided_at=yesterday)
    checked = look(engine, release)
    assert checked.compared.span.decisions == 10
    assert not any(s.lit for s in checked.compared.signals)
    send(3)
    assert isinstance(look(engine, release), TooEarly)
    assert look(engine, release, force=True).compared.span.decisions == 3


def test_a_window_without_feedback_or_answers(engine: Engine, release: Release, send: Send) -> None:
    send(200)
    insert_decisions(engine, [{**row, "unseen_score": 0.5} for row in decide(release, 100)])
    checked = look(engine, release)
    assert checked.compared.window.rows["reward"].isna().all()
    assert checked.compared.window.rows["observed_tokens"].isna().all()
    assert {s.alert for s in checked.compared.signals if s.lit} <= {"feedback-drying-up"}


def test_a_large_window_is_sampled_alike_each_time(
    engine: Engine, release: Release, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.drift.window_rows.MOST_ROWS", 60)
    send(300)
    with engine.connect() as connection:
        first = read_span(connection, release.digest, 0)
        assert first is not None
        one, again = (read_window(connection, first, release.manifest.catalog) for _ in range(2))
    assert one.total == 300
    assert 30 <= len(one) <= 100
    assert one.rows.equals(again.rows)


def test_corrected_votes_count_as_corrected(engine: Engine, release: Release, send: Send) -> None:
    (row,) = send(1, votes=False)
    insert_feedback(engine, [vote(row, satisfied=True, source="u")])
    insert_feedback(engine, [vote(row, satisfied=False, source="u")])
    insert_feedback(engine, [vote(row, satisfied=True, source="v")])
    with engine.connect() as connection:
        first = first_span(connection, release.digest, 1)
        assert first is not None
        window = read_window(connection, first, release.manifest.catalog)
    assert window.rows["reward"].tolist() == [0.5]
    assert window.votes == 0, "the votes came after the stretch"


def test_the_votes_since_a_decision(engine: Engine, release: Release, send: Send) -> None:
    send(20)
    with engine.connect() as connection:
        middle = connection.execute(text("SELECT max(position) FROM decisions")).scalar_one()
        last = connection.execute(text("SELECT max(position) FROM feedback")).scalar_one()
    assert last_vote_before(engine, middle) == last
    send(5)
    assert last_vote_before(engine, middle) == last


def test_a_canary_is_held_against_the_champion_meanwhile(
    engine: Engine, release: Release, send: Send, release_folder: Path, tmp_path: Path
) -> None:
    from models.release.change import replace_defaults

    defaults = release.manifest.defaults.model_copy(update={"beta": 0.2})
    replace_defaults(release_folder, tmp_path / "canary", defaults)
    canary = Release.load(tmp_path / "canary")
    for _ in range(4):
        send(40)
        send(40, worse=0.5, release_digest=canary.digest)
    checked = check_canary(engine, Watched("2", canary.manifest), release.digest, RULES, SIZES)
    assert not isinstance(checked, TooEarly)
    assert {s.alert for s in checked.alerts.values()} == {"predictor-drift"}
    assert list_alerts(engine)[0]["release_version"] == "2"


def test_alerts_are_closed_with_what_came_of_it(
    engine: Engine, release: Release, send: Send
) -> None:
    send(200)
    send(100, unseen=0.5)
    (number,) = look(engine, release).alerts
    note(engine, Step("refit", "because", "done", number, {"rows": 3}))
    close_alert(engine, number, "release 2, challenger")
    row = read_alert(engine, number)
    assert (row["state"], row["outcome"]) == ("closed", "release 2, challenger")
    assert [s["what"] for s in read_audit(engine, number)] == [
        "close alert",
        "refit",
        "raise alert",
    ]
    assert list_alerts(engine, only_open=True) == []
