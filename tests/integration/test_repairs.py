"""Alerts mended by the flows: challengers, promotions, and what is in the audit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.testing.utilities import prefect_test_harness
from sqlalchemy import Engine, select, update

from flows.check_drift import check_drift_flow
from flows.clean_up import clean_up
from flows.context import Scene
from flows.learn import learn_from_feedback
from flows.probe import probe
from flows.repairs.flow import repair
from flows.retrain import retrain_configured
from infra.addresses import free_loopback_port
from infra.registry.records import CHALLENGER, CHAMPION, ROUTER, Canary
from infra.registry.registry import Registry
from logs import log_decisions
from models.data.evaluation_set import EvaluationSet
from models.data.files import write_evaluation_set
from models.domains.domains import Domains
from models.drift.signals import Signal
from models.predictors.predictor import Predictor
from models.release.change import replace_defaults
from models.release.manifest import read_manifest
from models.release.release import Release
from monitoring.drift.alert_log import NewAlert, list_alerts, open_alert
from monitoring.drift.window_log import list_windows
from monitoring.learning.learner import learn
from monitoring.learning.policy_states import list_states
from monitoring.store.audit import read_audit
from monitoring.store.feedback import insert_feedback
from monitoring.store.releases import insert_releases, release_row
from monitoring.store.tables import answers, policy_states
from votes import subject_of, vote


@pytest.fixture(scope="module", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@dataclass
class Platform:
    """A champion, its log, and the rules of the alerts."""

    scene: Scene
    release: Release
    engine: Engine
    rules: Path
    rng: np.random.Generator

    def send(self, count: int, **changes: Any) -> list[dict[str, Any]]:
        return log_decisions(self.engine, self.release, self.rng, count, **changes)

    def alias(self, name: str) -> str | None:
        return self.scene.registry.alias(name)

    def steps(self, alert: int) -> list[str]:
        return [step["what"] for step in read_audit(self.engine, alert)][::-1]


@pytest.fixture
def platform(
    tmp_path: Path,
    empty_database: str,
    release_folder: Path,
    simulated: EvaluationSet,
    new_registry: Callable[[Path], Registry],
    monkeypatch: pytest.MonkeyPatch,
) -> Platform:
    write_evaluation_set(simulated, tmp_path / "data")
    rules = tmp_path / "alerts.yaml"
    rules.write_text("{}")
    for name, value in {
        "PORT": free_loopback_port(),
        "HOME": tmp_path / "home",
        "DATABASE_URL": empty_database,
        "DATA": tmp_path / "data",
        "ALERTS": rules,
        "DRIFT_REFERENCE": 200,
        "DRIFT_WINDOW": 100,
    }.items():
        monkeypatch.setenv(f"MIXLLM_{name}", str(value))
    (tmp_path / "home").mkdir()
    new_registry(tmp_path / "home")
    scene, release = Scene.open(), Release.load(release_folder)
    (tmp_path / "reports").mkdir()
    scene.registry.register_release(release_folder, {}, {}, tmp_path / "reports", "first")
    scene.registry.promote("1")
    insert_releases(scene.engine, [release_row(release.manifest, "1")])
    return Platform(scene, release, scene.engine, rules, np.random.default_rng(0))


def drifted(platform: Platform) -> str:
    """An LLM gets worse; returns who. One alert is raised."""
    rows = platform.send(200)
    names, counts = np.unique([row["llm"] for row in rows], return_counts=True)
    llm = str(names[np.argmax(counts)])
    platform.send(120)
    with_it = [row for row in platform.send(120, worse=0.5) if row["llm"] == llm]
    assert len(with_it) >= 30
    check = check_drift_flow()
    assert ("predictor-drift", llm) in {tuple(a[1:]) for a in check["alerts"]}
    return llm


def test_without_a_champion_what_is_scheduled_does_nothing(
    tmp_path: Path, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MIXLLM_DATABASE_URL", empty_database)
    assert check_drift_flow()["message"].startswith("no release is champion yet")
    assert learn_from_feedback()["votes"] == 0
    assert probe() == {}
    assert repair() == {"closed": [], "waiting": []}
    assert sum(clean_up().values()) == 0
    assert retrain_configured() is None


def test_a_probe_says_what_is_wrong(platform: Platform) -> None:
    checks = probe()
    assert checks["stored queries"] == ""
    assert "127.0.0.1" in checks["answers"], "no service runs here"
    assert read_audit(platform.engine)[0]["why"].startswith("a probe failed: answers: ")


def test_a_drifted_llm_is_refitted_to_a_challenger(platform: Platform) -> None:
    llm = drifted(platform)
    mine = next(r for r in list_alerts(platform.engine) if r["subject"] == llm)
    closed = dict(repair()["closed"])
    assert "challenger" in closed[mine["id"]]
    version = platform.alias(CHALLENGER)
    assert version is not None
    assert platform.alias(CHAMPION) == "1", "nothing promotes itself"
    assert platform.steps(mine["id"]) == [
        "raise alert", "tell people", "refit", "judge release", "make challenger", "refit",
        "close alert", "tell people what came of it",
    ]  # fmt: skip
    tags = platform.scene.registry.tags(version)
    assert tags["gate.verdict"] == "passes"
    before, after = (read_manifest(platform.scene.registry.fetch(v)) for v in ("1", version))
    changed = [n for n in before.predictors if before.predictors[n] != after.predictors[n]]
    assert changed == [llm], "its predictor alone"
    folders = [platform.scene.registry.fetch(v) for v in ("1", version)]
    means = [
        Predictor.load(f / read_manifest(f).predictors[llm].folder).metrics["mean_quality"]
        for f in folders
    ]
    assert means[1] < means[0] - 0.1
    assert repair() == {"closed": [], "waiting": []}


def test_in_mode_act_what_passes_is_promoted(platform: Platform) -> None:
    platform.rules.write_text("predictor-drift: {mode: act}\n")
    drifted(platform)
    repair()
    assert platform.alias(CHAMPION) != "1"
    assert "make champion" in [step["what"] for step in read_audit(platform.engine)]


def test_in_mode_observe_nothing_is_repaired(platform: Platform) -> None:
    platform.rules.write_text("predictor-drift: {mode: observe}\n")
    drifted(platform)
    repair()
    assert platform.alias(CHALLENGER) is None
    assert {row["outcome"] for row in list_alerts(platform.engine)} == {"observed"}


def test_unseen_queries_become_a_domain(platform: Platform) -> None:
    platform.send(200, unseen=0.0)
    platform.send(100, unseen=0.6)
    check_drift_flow()
    repairs = repair()
    (outcome,) = [text for _, text in repairs["closed"] if text and "domain" in text]
    version = platform.alias(CHALLENGER)
    assert version is not None, outcome
    folders = [platform.scene.registry.fetch(v) for v in ("1", version)]
    old, new = (Domains.load(f / read_manifest(f).domains.folder) for f in folders)
    assert new.names_ == [*old.names_, "new"]
    routing = platform.release.route("Write a poem about rain.")
    assert new.place(routing.embedding)[1] < old.place(routing.embedding)[1]


def test_a_repair_with_too_little_to_go_by_waits(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.send(200)
    platform.send(100, worse=0.6, votes=False)
    # The answers' tokens drift, and nobody has graded them yet.
    with platform.engine.begin() as connection:
        newest = answers.c.position > 200
        more = {"response_tokens": answers.c.response_tokens * 4}
        connection.execute(update(answers).where(newest).values(more))
    check_drift_flow()
    repairs = repair()
    assert repairs["waiting"]
    assert "graded answers since the drift began, 20 are needed" in caplog.text
    assert [r for r in caplog.records if r.exc_info or "Traceback" in r.getMessage()] == []
    assert {
        row["state"] for row in list_alerts(platform.engine) if row["name"] == "predictor-drift"
    } == {"open"}


def test_what_fails_three_times_is_closed_and_told(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.send(200, unseen=0.0)
    platform.send(100, unseen=0.6)
    check_drift_flow()

    def broken(*_: Any) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr("flows.repairs.domains.unseen_queries", broken)
    assert [bool(repair()["waiting"]) for _ in range(3)] == [True, True, False]
    (row,) = list_alerts(platform.engine)
    assert row["outcome"] == "recluster failed 3 times: no space left"
    assert platform.steps(row["id"]).count("recluster failed") == 3


def test_a_lying_voter_is_left_out_in_mode_act(platform: Platform) -> None:
    platform.rules.write_text("feedback-poisoned: {mode: act}\n")
    rows = platform.send(300, votes=False)

    def said(row: dict[str, Any], i: int) -> dict[str, Any]:
        good = bool(row["scores"][row["llm"]]["quality"] > 0.5)
        liar = i % 5 == 0
        return vote(row, satisfied=good != liar, source="liar" if liar else f"u{i % 5}")

    insert_feedback(platform.engine, [said(row, i) for i, row in enumerate(rows)])
    learn(platform.engine, subject_of(platform.release))
    assert list_states(platform.engine)[0]["statistics"]["held_voters"] == ["source:liar"]
    check = check_drift_flow()
    assert [a[1:] for a in check["alerts"]] == [["feedback-poisoned", "source:liar"]]
    repair()
    newest = list_states(platform.engine)[0]
    assert (newest["reason"], newest["statistics"]["held"]) == ("rebuilt", 0)
    assert newest["statistics"]["applied"] == 240
    assert check_drift_flow(force=True)["alerts"] == []


def test_an_unstable_policy_state_is_rolled_back_in_mode_act(platform: Platform) -> None:
    platform.rules.write_text("learning-unstable: {mode: act}\n")
    platform.send(300)
    learn(platform.engine, subject_of(platform.release))
    good = list_states(platform.engine)[0]["version"]
    platform.send(100)
    learn(platform.engine, subject_of(platform.release))
    wild = list_states(platform.engine)[0]["version"]
    with platform.engine.begin() as connection:
        newest = policy_states.c.version == wild
        row = connection.execute(select(policy_states).where(newest)).mappings().one()
        statistics = row["statistics"]
        next(iter(statistics["candidates"].values()))["norm"] = 99.0
        connection.execute(update(policy_states).where(newest).values(statistics=statistics))
        # The look begins at the second hundred, which the good state had not seen.
        early = policy_states.c.version == good
        before = {"created_at": datetime(2020, 1, 1, tzinfo=UTC)}
        connection.execute(update(policy_states).where(early).values(before))
    check = check_drift_flow(force=True)
    assert "learning-unstable" in [a[1] for a in check["alerts"]]
    repair()
    newest_state = list_states(platform.engine)[0]
    assert newest_state["reason"].startswith(f"rolled back to {good}: alert ")


def test_a_cascade_raises_beta_and_what_only_people_can_fix_is_reported(platform: Platform) -> None:
    platform.send(10)
    release = (platform.release.digest, "1")
    with platform.engine.begin() as connection:
        for name in ("latency-cascade", "cost-above-forecast"):
            signal = Signal(name, None, "x", 0.1, 0.9, 0.8, 0.15, 1e-9, 100, True)
            open_alert(connection, NewAlert(signal, "propose", *release, window_id=1))
    cascade, dear = (text for _, text in repair()["closed"])
    assert dear == "people were notified; this alert has no automatic repair"
    version = platform.alias(CHALLENGER)
    assert version is not None, cascade
    manifest = read_manifest(platform.scene.registry.fetch(version))
    assert manifest.defaults.beta == 2 * platform.release.manifest.defaults.beta


def test_an_alert_about_another_release_than_the_champion_repairs_nothing(
    platform: Platform,
) -> None:
    with platform.engine.begin() as connection:
        signal = Signal("latency-cascade", None, "x", 0.1, 0.9, 0.8, 0.15, 1e-9, 100, True)
        open_alert(connection, NewAlert(signal, "act", "another", "7", window_id=1))
    assert repair()["closed"] == [[1, "release 7 is not champion: nothing to repair"]]
    assert platform.alias(CHALLENGER) is None


def test_an_alert_ends_the_canary(platform: Platform) -> None:
    registry = platform.scene.registry
    folder, reports = registry.home / "other", registry.home / "none"
    reports.mkdir()
    defaults = platform.release.manifest.defaults.model_copy(update={"beta": 0.5})
    replace_defaults(registry.fetch("1"), folder, defaults)
    registry.register_release(folder, {}, {}, reports, "second")
    registry.set_canary(Canary("2", 0.1))
    drifted(platform)
    assert registry.canary() is None
    steps = [step for step in read_audit(platform.engine) if step["what"] == "end canary"]
    assert steps[0]["result"] == "release 2 gets no more traffic"


def test_the_report_is_on_the_release_and_in_the_table(platform: Platform) -> None:
    platform.send(300)
    check = check_drift_flow()
    registry = platform.scene.registry
    run = registry.client.get_model_version(ROUTER, "1").run_id
    assert {f.path for f in registry.client.list_artifacts(run, "drift")} == {
        "drift/window-1.html",
        "drift/window-1-evidently.html",
    }
    assert registry.tags("1")["drift.last"].startswith("window 1: ")
    (row,) = list_windows(platform.engine)
    assert row["report"] == check["report"]
    assert Path(check["report"].removeprefix("file://")).is_file()


def test_a_report_whose_flow_died_is_written_by_the_next(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.send(300, unseen=0.0)
    with monkeypatch.context() as patched:
        patched.setattr("flows.check_drift.follow_up", lambda *_: "")
        check_drift_flow()
    assert list_windows(platform.engine)[0]["report"] is None
    assert check_drift_flow()["window"] is None, "nothing new has come"
    (row,) = list_windows(platform.engine)
    assert Path(row["report"].removeprefix("file://")).is_file()


def test_clean_up_keeps_what_a_release_is_held_against(platform: Platform) -> None:
    old = "2020-01-01T00:00:00+00:00"
    platform.send(150, votes=False, decided_at=old)
    platform.send(60, decided_at=old)
    platform.send(70, votes=False, decided_at=old)
    platform.send(50, votes=False)
    gone = clean_up()
    # The first 200 are the reference; those with votes are kept longer, though 2020 is long ago.
    assert gone["decisions"] == 80
    assert clean_up()["decisions"] == 0
    platform.send(20)
    assert check_drift_flow(force=True)["window"] is not None
