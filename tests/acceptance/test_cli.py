"""The commands, as people run them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

from infra.guard.credentials import read_credentials
from mixllm import cli
from models.data.evaluation_set import EvaluationSet
from models.data.files import write_evaluation_set
from models.evaluation.measures import MEASURES

MIXLLM = [sys.executable, "-m", "mixllm"]


@pytest.fixture(scope="module")
def home(machine_home: Path, encoder_folder: Path) -> Path:
    """The session's home, whose encoder is exported already."""
    return machine_home


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, simulated: EvaluationSet) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small"
    write_evaluation_set(simulated, folder)
    return folder


def run(*arguments: str | Path, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MIXLLM, *map(str, arguments)],
        env={**os.environ, "MIXLLM_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing was trained."""
    return tmp_path_factory.mktemp("new")


def refused(
    arguments: Sequence[str | Path],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The last line of a command that fails in this process, which saves the seconds of a start."""
    own = {"MIXLLM_HOME": str(home), "MIXLLM_PORT": free_port()}
    monkeypatch.setattr(os, "environ", {**os.environ, **own})
    monkeypatch.setattr(sys, "argv", ["mixllm", *map(str, arguments)])
    umask = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        os.umask(umask)
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("mixllm: ")
    return last


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_bad_file_of_rules_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text("predictor-drft: {mode: act}")
    monkeypatch.setenv("MIXLLM_ALERTS", str(rules))
    for command in (["up"], ["drift", "check"], ["repair"]):
        last = refused(command, tmp_path, monkeypatch, capsys)
        assert "did you mean 'predictor-drift'" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["evaluate", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["promote", "7"], "no release '7' in MLflow; known: none yet"),
        (["rollback"], "no release was champion before this one"),
        (["releases"], "no release is registered yet"),
        (["ingest", "/nowhere.csv", "--out", "/tmp/x"], "/nowhere.csv: no such file"),
        (["policy", "learn"], "no release is champion yet"),
        (["policy", "show", "7"], "no policy state 7"),
        (["feedback", "import", "/nowhere.jsonl"], "/nowhere.jsonl: No such file or directory"),
        (["update-predictors", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["ope", "--release", "7"], "no release is champion yet"),
        (["judge", "7"], "no release '7' in MLflow"),
        (["drift", "check"], "no release is champion yet"),
        (["repair"], "no release is champion yet"),
        (["canary", "0.1"], "there is no challenger"),
        (["shadow"], "there is no challenger"),
        (["canary", "0.1", "--by", "luck"], "--by luck: keys or traffic"),
        (["judge", "7", "--data", "/nowhere"], "no release '7' in MLflow"),
        (["alerts", "show", "7"], "no alert 7; see: mixllm alerts list"),
        (["route", "hello"], "no service answers at http://127.0.0.1"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    arguments: list[str],
    message: str,
    new_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(arguments, new_home, monkeypatch, capsys)


def test_a_process_ends_with_that_line(tmp_path: Path) -> None:
    done = run("train", "--data", "/nowhere", home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "mixllm: /nowhere: no such folder\n"


def test_a_bad_row_stops_ingest_until_it_is_quarantined(data: Path, tmp_path: Path) -> None:
    outcomes = pd.read_parquet(data / "outcomes.parquet")
    outcomes.loc[4, "quality"] = 3.0
    bad = tmp_path / "bad"
    bad.mkdir()
    outcomes.to_csv(bad / "outcomes.csv", index=False)
    pd.read_parquet(data / "queries.parquet").to_json(
        bad / "queries.jsonl", orient="records", lines=True
    )
    (bad / "catalog.yaml").write_text((data / "catalog.yaml").read_text())
    done = run("ingest", bad, "--out", tmp_path / "out", home=tmp_path)
    assert done.returncode == 2
    assert "outcomes.csv line 6, column 'quality': '3.0' is outside [0, 1]" in done.stderr
    aside = tmp_path / "aside.jsonl"
    done = run("ingest", bad, "--out", tmp_path / "out", "--quarantine", aside, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 bad row set aside" in done.stdout
    assert json.loads(aside.read_text())["line"] == 6
    assert len(pd.read_parquet(tmp_path / "out" / "outcomes.parquet")) == len(outcomes) - 1


def check_results(out: Path, choices: Path, queries: int) -> None:
    results = json.loads(out.read_text())
    assert set(results["measures"]) == {
        *("mixllm", "tuned_knn", "clusters", "constant_cost", "no_shrinkage"),
        *("best_single", "random", "zero", "oracle"),
    }
    for measured in results["measures"].values():
        assert set(measured) == {*MEASURES, "aiq_over"}
    assert results["measures"]["mixllm"]["aiq"]["low"] is not None
    table = pd.read_parquet(choices)
    assert list(table.columns) == ["willingness_to_pay", "query_id", "llm"]
    settings = table.groupby("willingness_to_pay")["query_id"].agg(["count", "nunique"])
    assert (settings == results["test_queries"]).all().all()
    assert results["test_queries"] == queries
    assert set(table["llm"]) <= set(results["candidates"])


def test_evaluate_measures_on_the_standard_split(
    data: Path, home: Path, simulated: EvaluationSet, tmp_path: Path
) -> None:
    out, choices, plot = (tmp_path / n for n in ("r.json", "c.parquet", "p.png"))
    done = run(
        *("evaluate", "--data", data, "--out", out, "--choices", choices, "--plot", plot), home=home
    )
    assert done.returncode == 0, done.stderr
    check_results(out, choices, len(simulated.split()[1].queries))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "mixllm" in done.stdout
    assert "oracle" in done.stdout


def test_evaluate_measures_on_another_set(
    data: Path, home: Path, simulated: EvaluationSet, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_evaluation_set(simulated.split()[1], other)
    out, choices = tmp_path / "r.json", tmp_path / "c.parquet"
    done = run(
        *("evaluate", "--data", data, "--test-data", other, "--out", out, "--choices", choices),
        *("--families", "ridge"),
        home=home,
    )
    assert done.returncode == 0, done.stderr
    check_results(out, choices, len(simulated.split()[1].queries))
    assert json.loads(out.read_text())["training_queries"] == len(simulated.queries)


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
    mlflow = httpx.get(f"http://127.0.0.1:{ports['MIXLLM_MLFLOW_PORT']}/", auth=auth)
    assert mlflow.status_code == 200

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


def test_the_audit_of_tags_is_a_table_a_plot_and_a_run(
    data: Path, home: Path, simulated: EvaluationSet, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    done = run("audit-tags", "--data", data, "--out", out, "--domains", "auto", home=home)
    assert done.returncode == 0, done.stderr
    assert "of the queries have a domain" in done.stdout
    assert (out / "domains.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "audit.json").read_text())
    assert found["queries"] == len(simulated.split()[0].queries)
    assert found["nmi"] > 0.5
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    run_id = done.stdout.split("MLflow run ")[1].strip()
    assert client.get_run(run_id).data.metrics["nmi"] == pytest.approx(found["nmi"])
    assert {f.path for f in client.list_artifacts(run_id, "report")} == {
        f"report/{name}" for name in ("audit.md", "audit.json", "domains.png")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "thaw"], "encoder: Input should be 'frozen', 'reuse' or 'fine-tune'"),
        (["--tagger", "llm"], "the llm tagger needs MIXLLM_TAGGER_URL"),
        (["--domains", "many"], "domains"),
        (["--tuning", "no.yaml"], "no.yaml: no such file"),
        (["--tuning", "typo.yaml"], "tuning.epoch: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_with_training_options_is_said(
    arguments: list[str],
    message: str,
    data: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "typo.yaml").write_text("epoch: 3\n")
    given = [str(tmp_path / a) if a.endswith(".yaml") else a for a in arguments]
    out = ("--out", tmp_path / "r.json", "--choices", tmp_path / "c.parquet")
    command: list[str | Path] = ["evaluate", "--data", data, *out, *given]
    assert message in refused(command, home, monkeypatch, capsys)


def test_reusing_an_encoder_needs_a_champion(
    data: Path,
    new_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ("--out", tmp_path / "r.json", "--choices", tmp_path / "c.parquet")
    command: list[str | Path] = ["evaluate", "--data", data, "--encoder", "reuse", *out]
    message = "no release is champion yet, so there is no encoder to reuse"
    assert message in refused(command, new_home, monkeypatch, capsys)


def test_the_schema_of_the_training_options_is_printed(tmp_path: Path) -> None:
    printed = json.loads(run("schema", home=tmp_path).stdout)
    assert {"encoder", "tagger", "domains", "tuning"} <= set(printed["properties"])


def test_calibrate_says_what_to_expect(data: Path, home: Path) -> None:
    command = ("calibrate", "--data", data, "--families", "ridge")
    done = run(*command, "--quality-share", "0.9", "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["willingness_to_pay"] >= 0
    done = run(*command, "--cost-share", "0.3", home=home)
    assert done.returncode == 0, done.stderr
    assert "willingness to pay: 0.0" in done.stdout
    assert done.stdout.count("expect on unseen queries") == 2
    impossible = run(*command, "--quality-share", "5", home=home)
    assert impossible.returncode == 2
    assert "no willingness to pay keeps 500.00%" in impossible.stderr


def test_evaluate_on_a_real_set(zeroeval: Path, home: Path, tmp_path: Path) -> None:
    out, choices = tmp_path / "r.json", tmp_path / "c.parquet"
    done = run("evaluate", "--data", zeroeval, "--out", out, "--choices", choices, home=home)
    assert done.returncode == 0, done.stderr
    check_results(out, choices, 484)
    measured = json.loads(out.read_text())["measures"]
    assert measured["mixllm"]["aiq"]["value"] > measured["random"]["aiq"]["value"] + 0.1
    assert measured["mixllm"]["aiq"]["value"] < measured["oracle"]["aiq"]["value"]
