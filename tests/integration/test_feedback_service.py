"""Feedback over HTTP: durable, checked, learned from, and what was learned decides."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import Engine, text

from infra.database import connect
from infra.registry.registry import Registry
from models.release.release import Release
from monitoring.drift.alert_log import list_alerts
from monitoring.learning.learner import learn
from monitoring.store.decisions import insert_decisions
from monitoring.store.feedback import read_feedback
from monitoring.store.keys import create_key, open_access, revoke_key
from processes import free_port, kill, start, stop, wait_for
from votes import decide, subject_of

QUERY = "Compute 2 + 2. Give only the number."


@dataclass
class Service:
    client: httpx.Client
    process: subprocess.Popen[bytes]
    engine: Engine
    database: str
    home: Path
    release: Release

    def decide(self, **wishes: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.post(
            "/v1/route", json={"query": QUERY, **wishes}
        ).json()
        return answer

    def vote(self, decision: str, **told: Any) -> httpx.Response:
        body = {"decision_id": decision, **told}
        return self.client.post("/v1/feedback", json=body)

    def votes_on(self, decision: str, count: int) -> list[dict[str, Any]]:
        """The rows of the log, once there are so many."""

        def found() -> list[dict[str, Any]]:
            rows = read_feedback(self.engine, UUID(decision))
            return rows if len(rows) >= count else []

        rows: list[dict[str, Any]] = wait_for(found)
        return rows


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    release_folder: Path,
    postgres: str,
    new_registry: Callable[[Path], Registry],
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("service")
    admin = connect(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE votes"))
    database = admin.url.set(database="votes").render_as_string(hide_password=False)
    admin.dispose()
    registry = new_registry(home)
    registry.promote(
        registry.register_release(release_folder, {}, {}, tmp_path_factory.mktemp("r"), "run")
    )
    process, port = start(home, database, home / "service.log", MIXLLM_POLICY_SECONDS="0.2")
    engine = connect(database)
    folder = registry.fetch("1")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        wait_for(lambda: client.get("/readyz").is_success)
        yield Service(client, process, engine, database, home, Release.load(folder))
    stop(process)
    engine.dispose()


def test_a_vote_is_kept_once_and_corrected(service: Service) -> None:
    decision = service.decide()["decision_id"]
    for satisfied in (True, True, False):
        response = service.vote(decision, satisfied=satisfied, comment="\x00 fine")
        assert response.status_code == 200
        assert response.json() == {"status": "kept"}
    rows = service.votes_on(decision, 2)
    assert [(r["satisfied"], r["revision"]) for r in rows] == [(True, 1), (False, 2)]
    shown = service.client.get(f"/v1/decisions/{decision}/feedback").json()
    assert [row["revision"] for row in shown] == [1, 2]
    assert shown[0]["comment"] == "\ufffd fine"


@pytest.mark.parametrize(
    ("told", "status", "message"),
    [
        ({}, 422, "satisfied or quality"),
        ({"satisfied": True, "quality": 0.5}, 422, "satisfied or quality"),
        ({"quality": 1.5}, 422, "quality"),
        ({"quality": float("nan")}, 422, ""),
        ({"satisfied": "yes"}, 422, "satisfied"),
        ({"satisfied": True, "sorce": "me"}, 422, "sorce"),
    ],
)
def test_what_is_no_vote_is_refused(
    service: Service, told: dict[str, Any], status: int, message: str
) -> None:
    decision = service.decide()["decision_id"]
    body = json.dumps({"decision_id": decision, **told})
    kind = {"content-type": "application/json"}
    response = service.client.post("/v1/feedback", content=body, headers=kind)
    assert response.status_code == status
    assert message in response.text


def test_a_vote_needs_a_decision_of_the_last_days(service: Service) -> None:
    assert service.vote(str(uuid4()), satisfied=True).status_code == 404
    assert service.vote("x" * 36, satisfied=True).status_code == 422
    (old,) = decide(service.release, 1)
    old["decided_at"] = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    insert_decisions(service.engine, [old])
    response = service.vote(old["id"], satisfied=True)
    assert response.status_code == 422
    assert "feedback is taken for 30 days" in response.json()["error"]["message"]


def test_a_batch_keeps_what_is_good(service: Service) -> None:
    good = [service.decide()["decision_id"] for _ in range(3)]
    feedback = [{"decision_id": d, "quality": 0.25} for d in (*good, str(uuid4()))]
    answer = service.client.post("/v1/feedback/batch", json={"feedback": feedback}).json()
    assert answer["kept"] == 3
    (refused,) = answer["refused"]
    assert refused["index"] == 3
    assert "no decision" in refused["message"]
    assert service.votes_on(good[0], 1)[0]["quality"] == 0.25


def test_scores_of_an_openai_evaluation_are_taken(service: Service) -> None:
    graded, passed = (service.decide()["decision_id"] for _ in range(2))
    items = [
        {
            "object": "eval.run.output_item",
            "eval_id": "eval_1",
            "status": "pass",
            "datasource_item": {"decision_id": graded},
            "results": [{"name": "a", "score": 0.5}, {"name": "b", "score": 1.0}],
        },
        {
            "status": "fail",
            "datasource_item": {"mixllm": {"decision_id": passed}},
            "results": [{"name": "a", "passed": False}],
        },
        {"status": "pass"},
        {"status": "pass", "datasource_item": {"decision_id": graded}, "results": [{"score": 7}]},
    ]
    lines = "\n".join([*map(json.dumps, items), "not JSON"])
    answer = service.client.post("/v1/feedback/import", content=lines).json()
    assert answer["kept"] == 2
    assert [row["index"] for row in answer["refused"]] == [2, 3, 4]
    (row,) = service.votes_on(graded, 1)
    assert (row["quality"], row["source"]) == (0.75, "openai-eval:eval_1")
    assert service.votes_on(passed, 1)[0]["satisfied"] is False


ODD_NUMBERS = (
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "1e400",
    "NaN",
    "-Infinity",
    "true",
    "[[1]]",
    "{}",
)


def test_no_json_makes_feedback_fail(service: Service) -> None:
    """Whatever parses, and what does not, is kept or refused, a line by itself."""
    decision = service.decide()["decision_id"]
    name = f'{{"decision_id": "{decision}"}}'
    lines = ["[" * 100_000, "[" * 500 + "]" * 500, "null", "7", '"x"', "{}", "\x00", "\ufeff{}"]
    for score in ODD_NUMBERS:
        results = f'"results": [{{"score": {score}}}]'
        lines += [f'{{"datasource_item": {name}, "status": "pass", {results}}}']
        lines += [f'{{"datasource_item": {score}, "status": "pass", "results": {score}}}']
        lines += [f'{{"datasource_item": {{"decision_id": {score}}}, "status": {score}}}']
        lines += [f'{{"datasource_item": {{"mixllm": {score}}}, "eval_id": {score}}}']
    good = f'{{"datasource_item": {name}, "status": "fail", "results": [{{"score": null}}]}}'
    body = "\n".join([*lines, good]).encode()
    answer = service.client.post("/v1/feedback/import", content=body + b"\n\xff\xfe")
    assert answer.status_code == 200
    assert answer.json()["kept"] == 1
    assert len(answer.json()["refused"]) == len(lines) + 1
    kind = {"content-type": "application/json"}
    vote = {"decision_id": decision, "satisfied": True}
    bodies: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
        ("/v1/feedback", vote, ("quality", "seconds", "prompt_tokens", "source", "comment")),
        ("/v1/feedback/batch", {"feedback": [vote]}, ("feedback",)),
        ("/v1/observations", {**vote, "seconds": 1.0}, ("seconds", "response_tokens", "failed")),
        ("/v1/route", {"query": QUERY}, ("beta", "max_cost", "switching_cost", "exploration")),
    )
    for path, fields_of, fields in bodies:
        for field in fields:
            for value in (
                *ODD_NUMBERS,
                '"\\ud800"',
                "[" * 5000,
                f'{{"\\ud800": {ODD_NUMBERS[0]}}}',
            ):
                rest = {key: kept for key, kept in fields_of.items() if key != field}
                sent = f'{json.dumps(rest)[:-1]}{", " if rest else ""}"{field}": {value}}}'
                response = service.client.post(path, content=sent, headers=kind)
                assert response.status_code < 500, (path, field, value[:20])
                assert response.is_success or response.json()["error"]["message"]


def test_what_votes_teach_decides_within_seconds(service: Service) -> None:
    before = service.decide(explain=True)
    for i in range(150):
        decision = service.decide()
        if decision["llm"] == before["llm"]:
            service.vote(decision["decision_id"], satisfied=i % 12 == 0, source=f"u{i % 6}")
    wait_for(lambda: service.client.get("/v1/release").json()["unwritten_feedback"] == 0)
    learned = learn(service.engine, subject_of(service.release))
    assert learned.state.passed_over == {}
    wait_for(
        lambda: service.client.get("/v1/release").json()["policy"]["version"] == learned.version
    )
    after = service.decide(explain=True)
    assert after["llm"] != before["llm"]
    scores = {row["llm"]: row["terms"]["feedback"] for row in after["explanation"]["scores"]}
    assert scores[before["llm"]] < -0.2
    stored = service.client.get(f"/v1/decisions/{after['decision_id']}").json()
    assert stored["policy_version"] == learned.version
    metrics = service.client.get("/metrics").text
    assert f"mixllm_policy_version {float(learned.version or 0)}" in metrics
    assert "mixllm_feedback_total" in metrics


def test_a_corrupted_state_is_not_served_and_an_alert_is_raised(service: Service) -> None:
    for _ in range(5):
        service.vote(service.decide()["decision_id"], satisfied=True)
    wait_for(lambda: service.client.get("/v1/release").json()["unwritten_feedback"] == 0)
    good = service.client.get("/v1/release").json()["policy"]["version"]
    with service.engine.begin() as connection:  # written, and bad at once: nobody can take it first
        columns = "release_digest, cursor, created_at, reason, digest, state, statistics"
        bad = "release_digest, cursor, now(), 'bad', digest, 'rubbish'::bytea, statistics"
        connection.execute(
            text(
                f"INSERT INTO policy_states ({columns}) SELECT {bad} FROM policy_states "
                "ORDER BY version DESC LIMIT 1"
            )
        )
    alert = wait_for(lambda: service.client.get("/v1/release").json()["policy"]["last_error"])
    assert "refused" in alert
    assert service.client.get("/v1/release").json()["policy"]["version"] == good
    assert service.decide()["fallback"] is None
    time.sleep(1.0)  # several looks later it is the same alert still
    assert "mixllm_policy_refused_total 1.0" in service.client.get("/metrics").text
    learned = learn(service.engine, subject_of(service.release))
    wait_for(
        lambda: service.client.get("/v1/release").json()["policy"]["version"] == learned.version
    )
    assert service.client.get("/v1/release").json()["policy"]["last_error"] is None


def test_choices_can_be_drawn(service: Service) -> None:
    wish = {"kind": "epsilon", "epsilon": 0.9}
    seen = set()
    for _ in range(30):
        answer = service.decide(explain=True, exploration=wish)
        rows = {row["llm"]: row["probability"] for row in answer["explanation"]["scores"]}
        assert sum(rows.values()) == pytest.approx(1.0)
        assert answer["propensity"] == pytest.approx(rows[answer["llm"]])
        assert answer["propensity"] < 1.0
        seen.add(answer["llm"])
    assert len(seen) > 2
    response = service.client.post(
        "/v1/route", json={"query": QUERY, "exploration": {"kind": "epsilom"}}
    )
    assert response.status_code == 422


def test_a_decision_belongs_to_its_key(service: Service) -> None:
    keyless = service.decide()["decision_id"]
    secrets = {}
    for name, scopes in (
        ("a", ["route", "feedback"]),
        ("b", ["route", "feedback"]),
        ("boss", ["admin"]),
    ):
        _, secrets[name] = create_key(service.engine, name, scopes)
    headers = {name: {"x-api-key": secret} for name, secret in secrets.items()}
    body = {"query": QUERY}

    def routed() -> str | None:
        response = service.client.post("/v1/route", json=body, headers=headers["a"])
        return response.json().get("decision_id") if response.is_success else None

    wait_for(lambda: service.client.post("/v1/route", json=body).status_code == 401)
    decision = wait_for(routed)
    assert decision is not None
    nobody = str(uuid4())

    def calls(identity: str, name: str) -> list[httpx.Response]:
        """Every way to read or judge a decision."""
        vote = {"decision_id": identity, "satisfied": True, "comment": "fine"}
        item = {"datasource_item": {"decision_id": identity}, "status": "pass", "results": []}
        seen = {"decision_id": identity, "seconds": 1.0, "failed": True}
        http, mine = service.client, headers[name]
        return [
            http.get(f"/v1/decisions/{identity}", headers=mine),
            http.get(f"/v1/decisions/{identity}/feedback", headers=mine),
            http.post("/v1/observations", json=seen, headers=mine),
            http.post("/v1/feedback", json=vote, headers=mine),
            http.post("/v1/feedback/batch", json={"feedback": [vote]}, headers=mine),
            http.post("/v1/feedback/import", json=item, headers=mine),
        ]

    def plain(response: httpx.Response, identity: str) -> tuple[int, str]:
        return response.status_code, response.text.replace(identity, "ID")

    try:
        wait_for(lambda: calls(nobody, "b")[0].status_code == 404, 10)
        for name, identity in (("b", decision), ("a", keyless), ("b", keyless)):
            refused = [plain(one, identity) for one in calls(identity, name)]
            assert refused == [plain(one, nobody) for one in calls(nobody, name)]
            assert [status for status, _ in refused] == [404, 404, 404, 404, 200, 200]
            assert all("fine" not in text for _, text in refused)
        # Nothing of that got in the owner's way.
        read = service.client.get(f"/v1/decisions/{decision}", headers=headers["a"])
        assert read.json()["answer"] is None
        vote = {"decision_id": decision, "satisfied": True}
        for name in ("a", "boss"):
            response = service.client.post("/v1/feedback", json=vote, headers=headers[name])
            assert response.status_code == 200, name
        assert [one.status_code for one in calls(keyless, "boss")[:2]] == [200, 200]
        rows = service.votes_on(decision, 2)
        assert len({row["key_id"] for row in rows}) == 2
    finally:
        for name in secrets:
            revoke_key(service.engine, name)
        open_access(service.engine)
        wait_for(lambda: service.client.post("/v1/route", json=body).status_code == 200)
    assert service.client.get(f"/v1/decisions/{keyless}").status_code == 200
    assert service.client.get(f"/v1/decisions/{decision}").status_code == 404
    assert service.vote(decision, satisfied=False).status_code == 404


def test_votes_outlive_postgres_and_the_service(service: Service, tmp_path: Path) -> None:
    """Postgres is away, the service is killed, another takes over: each vote is there once."""
    nowhere = f"postgresql+psycopg2://nobody@127.0.0.1:{free_port()}/none"
    registry = {"MIXLLM_MLFLOW_URI": f"sqlite:///{service.home / 'mlflow.db'}"}
    shutil.copy(service.home / "keys.json", tmp_path)  # unknown keys would be refused
    process, port = start(tmp_path, nowhere, tmp_path / "log", **registry)
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: httpx.get(f"{address}/readyz").is_success)
    decisions = [
        httpx.post(f"{address}/v1/route", json={"query": QUERY}).json()["decision_id"]
        for _ in range(3)
    ]

    def vote(at: str, decision: str) -> httpx.Response:
        body = {"decision_id": decision, "satisfied": True}
        return httpx.post(f"{at}/v1/feedback", json=body, timeout=30)

    for decision in decisions[:2]:
        assert vote(address, decision).status_code == 200
    unknown = vote(address, str(uuid4()))
    assert unknown.status_code == 503
    assert "nothing was kept" in unknown.json()["error"]["message"]
    kill(process)
    process, port = start(tmp_path, nowhere, tmp_path / "log2", **registry)
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: httpx.get(f"{address}/readyz").is_success)
    assert vote(address, decisions[2]).status_code == 200, "known from the file it was left in"
    kill(process)
    folders = ("journal", "journal-answers", "journal-feedback")
    for folder in folders:  # what a bug, a crash or a person may leave there
        for file in (tmp_path / folder).glob("*.jsonl"):
            with file.open("ab") as handle:
                handle.write(b'{}\n[1]\nnot JSON\n{"id": 7, "decision_id": null}\n{"id": "to')
            break
        else:
            (tmp_path / folder / "1-1-00000001.jsonl").write_bytes(b"{}\n[1]\n7\nnull\n")
    process, port = start(tmp_path, service.database, tmp_path / "log3", **registry)
    try:
        for decision in decisions:
            assert len(service.votes_on(decision, 1)) == 1
        shown = httpx.get(f"http://127.0.0.1:{port}/v1/release").json()
        refused = {
            name: shown["dead_letters"][name] for name in ("decisions", "answers", "feedback")
        }
        assert refused == {"decisions": 4, "answers": 4, "feedback": 4}
        assert shown["unwritten_feedback"] == shown["unwritten_decisions"] == 0
        assert shown["rows_lost"]["feedback"] == 0
        alerts = list_alerts(service.engine)
        assert {a["subject"] for a in alerts if a["name"] == "rows-refused"} == set(refused)
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'mixllm_rows_refused_total{journal="feedback"} 4.0' in metrics
    finally:
        stop(process)


def test_the_state_of_the_last_run_decides_without_postgres(
    service: Service, tmp_path: Path
) -> None:
    version = wait_for(lambda: service.client.get("/v1/release").json()["policy"]["version"])
    files = list((service.home / "policy").glob("*.safetensors"))
    assert files
    (tmp_path / "policy").mkdir()
    for file in files:
        (tmp_path / "policy" / file.name).write_bytes(file.read_bytes())
    nowhere = f"postgresql+psycopg2://nobody@127.0.0.1:{free_port()}/none"
    registry = {"MIXLLM_MLFLOW_URI": f"sqlite:///{service.home / 'mlflow.db'}"}
    shutil.copy(service.home / "keys.json", tmp_path)  # unknown keys would be refused
    process, port = start(tmp_path, nowhere, tmp_path / "log", **registry)
    try:
        address = f"http://127.0.0.1:{port}/v1/release"
        found = wait_for(lambda: httpx.get(address).json().get("policy", {}).get("version"))
        assert found == version
    finally:
        stop(process)
