"""The gate on a real registry and database: what it rests on, what it keeps, and what counts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from infra.registry.records import gate_state
from infra.registry.registry import Registry
from infra.settings import Settings
from models.data.evaluation_set import EvaluationSet, is_test_query
from models.data.files import write_evaluation_set
from models.errors import EvaluationSetError
from models.release.gate.checks import EVALUATION, FAILS, NOT_MEASURED, WORTH
from models.release.gate.verdict import Verdict
from monitoring.release_gate.judge import Trial, judge_release, standing_verdict
from monitoring.store.audit import read_audit


def few(data: EvaluationSet, count: int) -> EvaluationSet:
    """So few queries, one of them a test query."""
    test = data.queries["query_id"].map(is_test_query).to_numpy()
    order = np.argsort(~test, kind="stable")
    keep = np.zeros(len(test), dtype=bool)
    keep[[order[0], *np.flatnonzero(~test)[: count - 1]]] = True
    return data.where(keep)


def state(verdict: Verdict, name: str) -> tuple[str, str]:
    (check,) = (check for check in verdict.checks if check.name == name)
    return check.state, check.reason


def test_the_gate_from_the_first_release_on(  # noqa: PLR0915 - each verdict rests on those before
    tmp_path: Path,
    machine_home: Path,
    release_folder: Path,
    simulated: EvaluationSet,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    new_registry: Callable[[Path], Registry],
) -> None:
    monkeypatch.setattr("monitoring.release_gate.figures.TIMED", 20)
    monkeypatch.setattr("monitoring.release_gate.figures.PERTURBED", 20)
    registry = new_registry(tmp_path)
    settings = Settings(home=machine_home)
    (tmp_path / "reports").mkdir()
    for run, aiq in (("first", 0.5), ("second", 0.5), ("third", 0.0)):
        registry.register_release(release_folder, {}, {"aiq": aiq}, tmp_path / "reports", run)
    data, five = tmp_path / "data", tmp_path / "five"
    write_evaluation_set(simulated, data)
    write_evaluation_set(few(simulated, 5), five)

    # A first release that rests on five queries, or on nothing, is refused.
    verdict = judge_release(registry, engine, settings, Trial("1", None, five))
    assert not verdict.passes
    assert state(verdict, EVALUATION) == (
        FAILS, "the chosen LLM's outcome is known for 1 test queries, 20 are needed",
    )  # fmt: skip
    assert state(verdict, WORTH) == (NOT_MEASURED, "there is no champion to compare with")
    assert verdict.data is not None
    assert (verdict.data.queries, verdict.data.test_queries) == (1, 1)
    assert registry.refused("1") == verdict.reason
    says_nothing = judge_release(registry, engine, settings, Trial("3", None, data))
    assert state(says_nothing, EVALUATION) == (FAILS, "its AIQ is 0")

    # On enough it passes; both verdicts stay.
    verdict = judge_release(registry, engine, settings, Trial("1", None, data))
    assert verdict.passes, verdict.reason
    assert verdict.number == 2
    assert verdict.changed.startswith("data: ")
    history = registry.verdicts("1")
    assert [row["verdict"] for row in history] == ["refused", "passes"]
    assert [row["data"]["queries"] for row in history] == [1, verdict.data.queries]  # type: ignore[union-attr]
    assert registry.refused("1") is None
    assert gate_state(registry.tags("1")) == "passes (verdict 2)"
    run_id = registry.client.get_model_version("mixllm-router", "1").run_id
    kept = {f.path for f in registry.client.list_artifacts(run_id, "gate")}
    assert kept == {"gate/001", "gate/002"}

    # The next one is judged by the same data without being told, and the same way each time.
    registry.promote("1")
    second = judge_release(registry, engine, settings, Trial("2", "1"))
    assert second.data == verdict.data
    assert second.passes, second.reason
    assert standing_verdict(registry, "2") == registry.verdicts("2")[-1]
    again = judge_release(registry, engine, settings, Trial("2", "1"))
    timed = ("routing one query, ms",)
    assert [c for c in again.checks if c.name not in timed] == [
        c for c in second.checks if c.name not in timed
    ]
    assert again.inputs == second.inputs

    # Without its data it cannot be judged, which is no pass; and the refusal is kept.
    shutil.move(data, tmp_path / "elsewhere")
    without = judge_release(registry, engine, settings, Trial("2", "1"))
    assert not without.passes
    assert state(without, WORTH)[0] == NOT_MEASURED
    assert "necessary but not measured" in without.reason
    assert "was moved or has changed" in without.reason
    assert len(registry.verdicts("2")) == 3
    assert registry.refused("2") == without.reason
    registry.force("2")
    assert registry.refused("2") is None
    assert gate_state(registry.tags("2")) == "refused (verdict 3), forced"
    with pytest.raises(EvaluationSetError):
        judge_release(registry, engine, settings, Trial("2", "1", tmp_path / "nowhere"))
    back = judge_release(registry, engine, settings, Trial("2", "1", tmp_path / "elsewhere"))
    assert back.passes
    registry.client.set_model_version_tag("mixllm-router", "2", "gate.history.002", "{")
    assert [row["number"] for row in registry.verdicts("2")] == [1, 3, 4]

    audit = [step for step in read_audit(engine) if step["what"] == "judge release"]
    assert len(audit) == 7
    assert json.loads(json.dumps(audit[0]["evidence"]))["rule"]
