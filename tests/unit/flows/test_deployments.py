"""What runs when, said twice: by the code for one machine, by prefect.yaml for work pools."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deployments import DEPLOYMENTS

ROOT = Path(__file__).parents[3]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
BY_NAME = {entry["name"]: entry for entry in FILE["deployments"]}


def test_both_name_the_same_deployments() -> None:
    assert sorted(BY_NAME) == sorted(d.name for d in DEPLOYMENTS)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d.name)
def test_both_say_the_same(deployment: Any) -> None:
    entry = BY_NAME[deployment.name]
    path, _, function = entry["entrypoint"].partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert getattr(module, function) is deployment.flow
    assert entry["description"] == deployment.description
    assert [s["cron"] for s in entry.get("schedules", [])] == list(filter(None, [deployment.cron]))
    assert entry["concurrency_limit"] == 1
    expected = [(t.name, sorted(t.expect), t.match.model_dump()) for t in deployment.triggers]
    triggers = [(t["name"], t["expect"], t["match"]) for t in entry.get("triggers", [])]
    assert triggers == expected


def test_training_learning_drift_repair_probe_and_clean_up_run_by_themselves() -> None:
    assert {d.flow.name for d in DEPLOYMENTS if d.cron} == {
        "retrain", "learn-from-feedback", "check-drift", "repair", "probe", "clean-up",
    }  # fmt: skip
