"""The whole stack, as people run it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from commands import MIXLLM, free_port, run
from infra.guard.credentials import read_credentials
from models.data.evaluation_set import EvaluationSet


@pytest.fixture(scope="module")
def stack(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str], Path]]:
    """``mixllm up`` on ports of its own."""
    names = ("PORT", "MLFLOW_PORT", "PREFECT_PORT", "EVIDENTLY_PORT")
    ports = {f"MIXLLM_{name}": free_port() for name in names}
    ports |= {"MIXLLM_DRIFT_REFERENCE": "400", "MIXLLM_DRIFT_WINDOW": "100"}
    log = tmp_path_factory.mktemp("up") / "log"
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [*MIXLLM, "up"],
            env={**os.environ, "MIXLLM_HOME": str(home), "MIXLLM_POLL_SECONDS": "1", **ports},
            stdout=handle,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 180
    while "ready; Ctrl-C" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield process, ports, log
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


Running = tuple[subprocess.Popen[bytes], dict[str, str], Path]


@pytest.mark.timeout(900)
def test_the_stack_trains_promotes_routes_and_leaves_nothing_behind(
    stack: Running, data: Path, home: Path, simulated: EvaluationSet
) -> None:
    process, ports, log = stack
    trained = run("train", "--data", data, "--promote", home=home, **ports)
    assert trained.returncode == 0, trained.stderr
    assert "release 1 registered, champion" in trained.stdout
    plans_and_keeps_runs(home, ports)
    mlflow = f"http://127.0.0.1:{ports['MIXLLM_MLFLOW_PORT']}/"
    assert httpx.get(mlflow, auth=login(home)).status_code == 200

    service = f"http://127.0.0.1:{ports['MIXLLM_PORT']}"
    deadline = time.monotonic() + 60
    while not httpx.get(f"{service}/readyz").is_success:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    asked = run("route", "Compute 3 + 4. Give only the number.", "--json", home=home, **ports)
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["release"] == "1"
    assert "│ 1 " in run("releases", home=home, **ports).stdout
    (listed,) = json.loads(run("releases", "--json", home=home, **ports).stdout)
    assert (listed["version"], listed["aliases"]) == ("1", ["champion"])
    change_candidates(data, home, ports)
    reuse_the_encoder(data, home, ports)
    checked = run("doctor", home=home, **ports)
    assert checked.returncode == 0, checked.stdout
    assert "4 releases, champion 3" in checked.stdout
    shown = json.loads(run("status", "--json", home=home, **ports).stdout)
    assert shown["stack_pid"] == process.pid
    assert all(part["answers"] for part in shown["parts"].values()), shown["parts"]
    assert shown["releases"]["champion"] == shown["serving"]["version"] == "3"
    assert shown["open_alerts"] == []
    assert shown["errors"] == {}
    learn_from_feedback(data, home, ports, simulated)
    look_for_drift(data, home, ports, simulated)

    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert "stopped" in log.read_text()
    assert not (home / "stack.json").exists()
    mine = [path for path in home.rglob("*") if path.lstat().st_uid == os.geteuid()]
    assert [p for p in mine if not p.is_symlink() and p.lstat().st_mode & 0o077] == []


def plans_and_keeps_runs(home: Path, ports: dict[str, str]) -> None:
    """Prefect asks for a password, ran the training and has the schedules and automations."""
    prefect = f"http://127.0.0.1:{ports['MIXLLM_PREFECT_PORT']}/api"
    auth = login(home)
    assert httpx.post(f"{prefect}/flow_runs/filter", json={}).status_code == 401
    pages = httpx.get(f"{prefect.removesuffix('/api')}/ui-settings").json()
    assert pages["api_url"] == prefect
    runs = httpx.post(f"{prefect}/flow_runs/filter", json={}, auth=auth).json()
    mine = [r["state_type"] for r in runs if r["deployment_id"] is None]
    assert mine == ["COMPLETED"]
    coming = {r["state_type"] for r in runs if r["auto_scheduled"]}
    assert "SCHEDULED" in coming, "what has a cron is planned"
    deployments = httpx.post(f"{prefect}/deployments/filter", json={}, auth=auth).json()
    crons = {d["name"]: [s["schedule"]["cron"] for s in d["schedules"]] for d in deployments}
    assert crons["train-router"] == []
    assert crons["drift"] == ["*/30 * * * *"]
    assert len(crons) == len(deployments) == 10
    automations = httpx.post(f"{prefect}/automations/filter", json={}, auth=auth).json()
    assert "repair/repair on an alert" in {a["name"] for a in automations}
    artifacts = httpx.post(f"{prefect}/artifacts/filter", json={}, auth=auth).json()
    assert {a["key"] for a in artifacts} >= {"evaluation", "tagging", "encoder", "embedding"}


def login(home: Path) -> tuple[str, str]:
    """What the stack's pages ask for."""
    credentials = read_credentials(home)
    return credentials.user, credentials.password


def mlflow_client(home: Path, ports: dict[str, str]) -> MlflowClient:
    user, password = login(home)
    return MlflowClient(f"http://{user}:{password}@127.0.0.1:{ports['MIXLLM_MLFLOW_PORT']}")


def learn_from_feedback(
    data: Path, home: Path, ports: dict[str, str], simulated: EvaluationSet
) -> None:
    """Votes start the learner by themselves; grades refit a predictor; the log compares releases."""
    service = f"http://127.0.0.1:{ports['MIXLLM_PORT']}"
    outcomes = simulated.outcomes.set_index(["query_id", "llm"])
    with httpx.Client(base_url=service, timeout=30) as client:
        for number, query in enumerate(simulated.queries.head(300).itertuples()):
            wishes: dict[str, Any] = {"exploration": {"kind": "epsilon", "epsilon": 0.5}}
            if number % 2:
                wishes = {"candidates": ["sim-mini"]}
            answer = client.post("/v1/route", json={"query": query.query, **wishes}).json()
            outcome = outcomes.loc[(query.query_id, answer["llm"])]
            # One LLM is no longer what it was when it was evaluated.
            quality = 0.0 if answer["llm"] == "sim-mini" else float(outcome["quality"])
            vote = {
                "decision_id": answer["decision_id"],
                "quality": quality,
                "prompt_tokens": int(outcome["prompt_tokens"]),
                "response_tokens": int(outcome["response_tokens"]),
                "source": f"judge-{number % 3}",
            }
            assert client.post("/v1/feedback", json=vote).is_success
        deadline = time.monotonic() + 120
        while client.get("/v1/release").json()["policy"]["votes"] < 300:
            assert time.monotonic() < deadline, client.get("/v1/release").json()
            time.sleep(0.5)
    listed = run("policy", "list", home=home, **ports)
    assert "learned" in listed.stdout, listed.stderr
    assert "300 graded" in run("policy", "show", home=home, **ports).stdout
    rebuilt = run("policy", "rebuild", home=home, **ports)
    assert "300 votes: the same, byte for byte" in rebuilt.stdout, rebuilt.stderr
    refitted = run("update-predictors", "--data", data, home=home, **ports)
    assert refitted.returncode == 0, refitted.stderr
    assert "release 5: refitted" in refitted.stdout
    assert "challenger; promote it" in refitted.stdout, refitted.stdout
    assert "sim-mini" in refitted.stdout
    compared = run("ope", "--release", "5", home=home, **ports)
    assert compared.returncode == 0, compared.stderr
    assert "release 5 over release 3" in compared.stdout
    client = mlflow_client(home, ports)
    version = client.get_model_version("mixllm-router", "5")
    assert version.tags["ope.verdict"] in ("better", "no worse", "worse", "unknown")
    assert {f.path for f in client.list_artifacts(version.run_id, "ope")} == {
        "ope/ope.json",
        "ope/ope.md",
    }
    promoted = run("promote", "5", "--force", home=home, **ports)
    assert "release 5 is champion" in promoted.stdout
    unknown = run("policy", "rollback", "999", home=home, **ports)
    assert unknown.returncode == 2
    assert "no policy state 999" in unknown.stderr


def look_for_drift(data: Path, home: Path, ports: dict[str, str], simulated: EvaluationSet) -> None:
    """A full window is looked at by itself, and its report is where it should be."""
    service = f"http://127.0.0.1:{ports['MIXLLM_PORT']}"
    with httpx.Client(base_url=service, timeout=30) as client:
        deadline = time.monotonic() + 30
        while client.get("/v1/release").json()["version"] != "5":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for number in range(500):
            query = simulated.queries["query"].iloc[number % len(simulated.queries)]
            assert client.post("/v1/route", json={"query": query}).is_success
    deadline = time.monotonic() + 150
    while "window-1.html" not in (listed := run("drift", "list", home=home, **ports).stdout):
        assert time.monotonic() < deadline, listed
        time.sleep(1.0)
    assert (home / "drift" / "window-1.html").is_file()
    client = mlflow_client(home, ports)
    version = client.get_model_version("mixllm-router", "5")
    assert "drift/window-1.html" in {f.path for f in client.list_artifacts(version.run_id, "drift")}
    assert version.tags["drift.last"].startswith("window 1: ")
    evidently = f"http://127.0.0.1:{ports['MIXLLM_EVIDENTLY_PORT']}"
    projects = httpx.get(f"{evidently}/api/projects", auth=login(home)).json()
    assert "MixLLM drift" in {project["name"] for project in projects}
    judged = run("judge", "3", "--data", data, home=home, **ports)
    assert "release 3, verdict " in judged.stdout.splitlines()[-1], judged.stderr
    tags = client.get_model_version("mixllm-router", "3").tags
    assert tags["gate.verdict"] == ("passes" if judged.returncode == 0 else "refused")
    assert "judge release" in run("alerts", "audit", home=home, **ports).stdout
    counted = run("prune", "--dry-run", home=home, **ports)
    assert "0 decisions would go" in counted.stdout, counted.stderr


def reuse_the_encoder(data: Path, home: Path, ports: dict[str, str]) -> None:
    """Train again with the champion's encoder, and look at what MLflow says of it."""
    again = run("train", "--data", data, "--encoder", "reuse", home=home, **ports)
    assert again.returncode == 0, again.stderr
    client = mlflow_client(home, ports)
    (encoder,) = client.search_model_versions("name = 'mixllm-encoder'")
    assert float(encoder.tags["int8.cosine"]) > 0.9
    assert float(encoder.tags["float32.agreement"]) > 0.9
    assert encoder.description.startswith("# MixLLM encoder")
    (domains,) = client.search_model_versions("name = 'mixllm-domains'")
    assert domains.version == "1"


def change_candidates(data: Path, home: Path, ports: dict[str, str]) -> None:
    """Remove, add again, disable and enable candidates of the running stack."""
    service = f"http://127.0.0.1:{ports['MIXLLM_PORT']}"

    def release(version: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while (shown := httpx.get(f"{service}/v1/release").json())["version"] != version:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return dict(shown)

    before = release("1")["predictors"]
    removed = run("candidate", "remove", "sim-nano", "--promote", home=home, **ports)
    assert removed.returncode == 0, removed.stderr
    without = {llm: part for llm, part in before.items() if llm != "sim-nano"}
    assert release("2")["predictors"] == without
    added = run("candidate", "add", "sim-nano", "--data", data, "--promote", home=home, **ports)
    assert added.returncode == 0, added.stderr
    after = release("3")["predictors"]
    assert {llm: part for llm, part in after.items() if llm != "sim-nano"} == without
    assert after["sim-nano"]["version"] == "2"
    again = run("candidate", "add", "sim-nano", "--data", data, home=home, **ports)
    assert again.returncode == 2
    assert "is a candidate already" in again.stderr

    gone = [llm for llm in before if llm != "sim-coder"]
    disabled = run("candidate", "disable", *gone, home=home, **ports)
    assert disabled.returncode == 0, disabled.stderr
    time.sleep(0.5)  # the service was told; it asks the registry at once
    answer = httpx.post(f"{service}/v1/route", json={"query": "hello"}).json()
    assert answer["llm"] == "sim-coder"
    assert run("candidate", "enable", *gone, home=home, **ports).stdout.endswith("none\n")
