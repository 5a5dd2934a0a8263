"""Chat completions through the real service to a simulated fleet, all over HTTP on loopback."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import openai
import psutil
import pytest
import schemathesis
import yaml
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.core.result import Ok
from sqlalchemy import text

from fleets import RecordingFleet
from infra.database import connect
from infra.fleet.answers import RecordedAnswers
from infra.fleet.server import with_upstreams
from infra.fleet.thread import FleetThread
from infra.registry.registry import Registry
from models.data.evaluation_set import EvaluationSet
from monitoring.store.answers import read_answer, spent_this_month
from monitoring.store.keys import KeyOptions, create_key, open_access, revoke_key
from processes import start, stop, wait_for
from serving.gateway.breaker import FAILURES, OPEN_SECONDS

QUESTION = "Compute 17 + 4. Give only the number."
TOOL: Any = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}
UPSTREAM_KEY = "sk-fleet-Zq7wLm2Kd0Pt5xY9aB3"
CONTEXT = {
    "message": "This model's maximum context length is 4096",
    "type": "BadRequestError",
    "param": "messages",
    "code": "context_length_exceeded",
}
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def asked(content: Any = QUESTION) -> Any:
    return [{"role": "user", "content": content}]


@dataclass
class Running:
    """A service in front of a fleet."""

    http: httpx.Client
    openai: openai.OpenAI
    fleet: RecordingFleet
    home: Path
    database: str
    log: Path
    spans: list[bytes]
    names: list[str]

    def faults(self, **faults: Any) -> None:
        self.fleet.set_faults({name.replace("_", "-"): kinds for name, kinds in faults.items()})

    def chosen(self) -> str:
        """Whom the router takes for the question when all is well."""
        self.settle()
        answer = self.http.post("/v1/route", json={"query": QUESTION})
        return str(answer.json()["llm"])

    def traced(self, identity: str) -> bool:
        """Whether a span holds the decision."""
        return any(identity.encode() in raw for raw in self.spans)

    def settle(self) -> None:
        """No faults, and every breaker closed again."""
        self.fleet.set_faults({})

        def well() -> bool:
            for name in self.names:
                body = {"model": name, "messages": asked()}
                if self.http.post("/v1/chat/completions", json=body).status_code != 200:
                    return False
            return True

        wait_for(well, 30)

    def chat(self, **body: Any) -> httpx.Response:
        body = {"model": "mixllm", "messages": asked(), **body}
        return self.http.post("/v1/chat/completions", json=body)


class Collector(RecordingFleet):
    """An OpenTelemetry collector as far as it takes traces."""

    def __init__(self, spans: list[bytes], *args: Any) -> None:
        super().__init__(*args)
        self.spans = spans
        self.app.router.add_post("/v1/traces", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        self.spans.append(await request.read())
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    release_folder: Path,
    postgres: str,
    simulated: EvaluationSet,
    new_registry: Callable[[Path], Registry],
) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("gateway")
    admin = connect(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE gateway"))
    database = admin.url.set(database="gateway").render_as_string(hide_password=False)
    admin.dispose()
    registry = new_registry(home)
    reports = tmp_path_factory.mktemp("reports")
    registry.register_release(release_folder, {}, {}, reports, "run-1")
    registry.promote("1")
    spans: list[bytes] = []
    fleet = Collector(spans, simulated.catalog, RecordedAnswers(simulated), 8, 20.0)
    thread = FleetThread(fleet).__enter__()
    limits = {"first_token_timeout": 1.5, "total_timeout": 3.0, "concurrency": 8}
    key = {"key_variable": "KEY_OF_FLEET"}
    catalog = with_upstreams(simulated.catalog, thread.address, **limits, **key)
    (home / "catalog.yaml").write_text(catalog.dump_yaml())
    process, port = start(
        home,
        database,
        home / "service.log",
        MIXLLM_CATALOG=str(home / "catalog.yaml"),
        MIXLLM_MAX_BODY_BYTES="100000",
        OTEL_EXPORTER_OTLP_ENDPOINT=thread.address,
        OTEL_BSP_SCHEDULE_DELAY="200",
        KEY_OF_FLEET=UPSTREAM_KEY,
        HTTP_PROXY="http://127.0.0.1:1",
    )
    base = f"http://127.0.0.1:{port}"
    names = simulated.catalog.names
    with httpx.Client(base_url=base, timeout=20) as client:
        wait_for(lambda: client.get("/readyz").is_success)
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as ai:
            yield Running(client, ai, fleet, home, database, home / "service.log", spans, names)
    stop(process)
    thread.__exit__()


def test_the_openai_client_gets_an_answer_and_learns_who_gave_it(running: Running) -> None:
    raw = running.openai.chat.completions.with_raw_response.create(
        model="mixllm",
        messages=asked(),
        temperature=0.3,
        extra_body={"seed_of_mine": [1, {"a": None}]},
    )
    answer = raw.parse()
    told = answer.mixllm  # type: ignore[attr-defined]
    assert answer.choices[0].message.content
    assert answer.model == told["llm"] == raw.headers["x-mixllm-llm"]
    assert told["fallback"] is None
    assert "x-mixllm-fallback" not in raw.headers
    assert told["usage"] == "reported"
    assert told["cost_usd"] == float(raw.headers["x-mixllm-cost-usd"]) > 0
    sent, _ = running.fleet.seen[-1]
    assert sent == {
        "model": told["llm"],
        "messages": asked(),
        "temperature": 0.3,
        "seed_of_mine": [1, {"a": None}],
    }
    stored = running.http.get(f"/v1/decisions/{told['decision_id']}").json()
    assert stored["llm"] == told["llm"]
    assert stored["answer"]["status"] == "answered"
    assert stored["answer"]["cost_usd"] == told["cost_usd"]
    engine = connect(running.database)
    row = wait_for(lambda: read_answer(engine, UUID(told["decision_id"])))
    engine.dispose()
    assert row["response_tokens"] == answer.usage.completion_tokens  # type: ignore[union-attr]


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_comes_piece_by_piece_and_ends_with_its_cost(
    usage: bool, running: Running
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    stream = running.openai.chat.completions.create(
        model="mixllm", messages=asked(), stream=True, **options
    )
    chunks = list(stream)
    with_choices = [chunk for chunk in chunks if chunk.choices]
    assert len(with_choices) == len(chunks) - usage, "usage only comes where it was asked for"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in with_choices)
    assert with_choices[-1].choices[0].finish_reason == "stop"
    first, last = (chunk.mixllm for chunk in (chunks[0], chunks[-1]))
    assert first["llm"] == last["llm"]
    assert "cost_usd" not in first
    assert last["cost_usd"] > 0
    assert last["usage"] == "reported"
    stored = running.http.get(f"/v1/decisions/{last['decision_id']}").json()["answer"]
    assert stored["streamed"]
    assert 0 < stored["first_token_seconds"] <= stored["seconds"]


def test_tools_and_images_pass_through(running: Running) -> None:
    answer = running.openai.chat.completions.create(
        model="mixllm",
        messages=asked([{"type": "text", "text": QUESTION}, PIXEL]),
        tools=[TOOL],
    )
    call = answer.choices[0].message.tool_calls[0]  # type: ignore[index]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "lookup"  # type: ignore[union-attr]
    sent, _ = running.fleet.seen[-1]
    assert sent["tools"] == [TOOL]
    assert sent["messages"][0]["content"][1] == PIXEL
    chunks = list(
        running.openai.chat.completions.create(
            model="mixllm",
            messages=asked(),
            tools=[TOOL],
            stream=True,
        )
    )
    (streamed,) = chunks[0].choices[0].delta.tool_calls or []
    assert streamed.function is not None
    assert streamed.function.name == "lookup"


def test_what_has_no_text_goes_to_the_default(running: Running) -> None:
    answer = running.chat(messages=asked([PIXEL])).json()
    assert answer["mixllm"]["llm"] == "sim-large"
    assert answer["mixllm"]["fallback"] == "no text to route by"


def test_a_candidates_name_pins_it_and_models_lists_it(running: Running) -> None:
    listed = [model.id for model in running.openai.models.list()]
    assert listed == ["mixllm", *running.names]
    for name in running.names:
        assert running.chat(model=name).json()["mixllm"]["llm"] == name


def test_options_come_in_the_field_or_in_headers(running: Running) -> None:
    only = {"candidates": ["sim-mini", "sim-coder"]}
    assert running.chat(mixllm=only).json()["mixllm"]["llm"] in only["candidates"]
    assert "mixllm" not in running.fleet.seen[-1][0]
    body = {"model": "mixllm", "messages": asked()}
    for headers, llm in [
        ({"x-mixllm-candidates": "sim-coder"}, "sim-coder"),
        ({"x-mixllm-willingness-to-pay": "1e-9"}, "sim-nano"),
    ]:
        answer = running.http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.json()["mixllm"]["llm"] == llm


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": None}, 422, "messages"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"content": "x"}]}, 422, "messages.0.role"),
        ({"model": "gpt-99"}, 404, "model"),
        ({"stream": "yes"}, 422, "stream"),
        ({"mixllm": {"lambda": 1}}, 422, "mixllm.lambda"),
        ({"mixllm": {"candidates": ["gpt-99"]}}, 422, "candidates"),
        ({"mixllm": {"max_cost": 1e-12}}, 422, "max_cost"),
        ({"mixllm": {"candidates": ["sim-nano"], "min_quality": 0.99}}, 422, "min_quality"),
    ],
)
def test_errors_have_the_one_form(
    body: dict[str, Any], status: int, param: str | None, running: Running
) -> None:
    response = running.chat(**body)
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"type", "message", "param", "code"}
    assert error["param"] == param


def test_what_is_too_large_or_not_json_is_refused(running: Running) -> None:
    path = "/v1/chat/completions"
    large = running.chat(messages=asked("x" * 200_000))
    assert (large.status_code, large.json()["error"]["type"]) == (413, "too_large")

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    assert running.http.post(path, content=pieces()).status_code == 413
    heavy = running.http.get("/v1/models", headers={"x-filler": "y" * 40_000})
    assert heavy.status_code == 431
    content = (
        b'{"model": "mixllm", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}'
    )
    headers = {"content-type": "application/json"}
    response = running.http.post(path, content=content, headers=headers)
    assert response.status_code == 422
    assert "not JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["429", "500", "hang", "garbage"])
@pytest.mark.parametrize("stream", [False, True])
def test_where_the_choice_fails_the_next_best_answers(
    kind: str, stream: bool, running: Running
) -> None:
    chosen = running.chosen()
    running.faults(**{chosen: {kind: 1.0}})
    response = running.chat(stream=stream)
    assert response.status_code == 200
    assert response.headers["x-mixllm-llm"] != chosen
    assert response.headers["x-mixllm-fallback"] == f"{chosen} failed"
    stored = running.http.get(f"/v1/decisions/{response.headers['x-mixllm-decision-id']}").json()
    assert stored["llm"] == chosen
    assert stored["answer"]["llm"] == response.headers["x-mixllm-llm"]
    outcomes = [attempt["outcome"] for attempt in stored["answer"]["attempts"]]
    expected = {"429": "rate_limited", "500": "server_error", "hang": "timeout"}
    assert outcomes[0] == expected.get(kind, kind)
    assert outcomes[-1] == "answered"
    assert len(outcomes) == (2 if kind == "hang" else 3), "tried again, but not after a timeout"
    running.settle()


def test_slow_tokens_are_waited_for(running: Running) -> None:
    running.settle()
    quick = running.chat(model="sim-nano").elapsed.total_seconds()
    running.faults(sim_nano={"slow": 1.0})
    slow = running.chat(model="sim-nano")
    assert slow.status_code == 200
    assert slow.elapsed.total_seconds() > 2 * quick
    running.settle()


def test_a_stream_that_breaks_says_so_in_the_stream(running: Running) -> None:
    chosen = running.chosen()
    running.faults(**{chosen: {"broken": 1.0}})
    stream = running.openai.chat.completions.create(model="mixllm", messages=asked(), stream=True)
    first = next(stream)
    assert first.choices[0].delta.content, "what had come stays"
    with pytest.raises(openai.APIError, match=chosen):
        list(stream)
    identity = first.mixllm["decision_id"]  # type: ignore[attr-defined]
    stored = running.http.get(f"/v1/decisions/{identity}").json()["answer"]
    assert stored["status"] == "broken"
    plain = running.chat()
    assert plain.headers["x-mixllm-fallback"] == f"{chosen} failed", "not begun: another answers"
    running.settle()


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("429", 429, openai.RateLimitError),
        ("500", 502, openai.InternalServerError),
        ("garbage", 502, openai.InternalServerError),
        ("hang", 504, openai.InternalServerError),
    ],
)
def test_where_nobody_answers_the_error_says_what_was_tried(
    kind: str, status: int, error: type[openai.APIStatusError], running: Running
) -> None:
    running.settle()
    running.fleet.set_faults({"*": {kind: 1.0}})
    with pytest.raises(error, match="no LLM answered") as caught:
        running.openai.chat.completions.create(model="mixllm", messages=asked())
    assert caught.value.status_code == status
    assert caught.value.message.count("sim-") >= 2
    running.settle()


@pytest.mark.parametrize("stream", [False, True])
def test_one_llms_refusal_is_not_the_clients(stream: bool, running: Running) -> None:
    chosen = running.chosen()
    running.fleet.scripted = {chosen: (400, {"error": CONTEXT})}
    try:
        for _ in range(FAILURES + 1):
            response = running.chat(stream=stream)
            assert response.status_code == 200
            assert response.headers["x-mixllm-fallback"] == f"{chosen} failed"
        pinned = running.chat(model=chosen, stream=stream)
        assert (pinned.status_code, pinned.json()["error"]) == (400, CONTEXT)
        running.fleet.scripted = dict.fromkeys(running.names, (400, {"object": "error", **CONTEXT}))
        nobody = running.chat(stream=stream)
        assert (nobody.status_code, nobody.json()["error"]) == (400, CONTEXT)
    finally:
        running.fleet.scripted = {}
    assert running.chat().json()["mixllm"]["llm"] == chosen, "its breaker did not open"


def test_a_pinned_llms_own_error_is_passed_on_without_its_key(running: Running) -> None:
    running.settle()
    for status, body in [
        (401, {"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}", "code": "k"}}),
        (403, {"detail": f"Bearer {UPSTREAM_KEY} may not"}),
        (500, {"message": f"sk-...{UPSTREAM_KEY[-4:]} broke it"}),
        (200, {"error": {"message": f"{UPSTREAM_KEY[4:]} is used up", "code": 500}}),
    ]:
        running.fleet.scripted = {"sim-nano": (status, body)}
        try:
            refused = running.chat(model="sim-nano")
        finally:
            running.fleet.scripted = {}
        assert refused.status_code == (502 if status == 200 else status)
        assert "[redacted]" in refused.json()["error"]["message"]
        assert UPSTREAM_KEY[-4:] not in refused.text
        identity = refused.headers["x-mixllm-decision-id"]
        stored = running.http.get(f"/v1/decisions/{identity}")
        assert "[redacted]" in stored.text
        assert UPSTREAM_KEY[-4:] not in stored.text
        engine = connect(running.database)
        row = wait_for(partial(read_answer, engine, UUID(identity)), 10)
        engine.dispose()
        assert UPSTREAM_KEY[-4:] not in str(row)
        wait_for(partial(running.traced, identity), 10)
    running.settle()
    assert UPSTREAM_KEY[-4:] not in running.log.read_text()
    assert not any(UPSTREAM_KEY[-4:].encode() in raw for raw in running.spans)


def test_the_llms_own_refusal_is_passed_on_and_nobody_else_is_asked(running: Running) -> None:
    running.settle()
    seen = len(running.fleet.seen)
    refused = running.chat(messages=[{"role": "user", "content": QUESTION}, {"role": "x" * 5}])
    assert refused.status_code == 200, "what the fleet takes, it answers"
    original = running.fleet.machines.pop("sim-nano")
    try:
        response = running.chat(model="sim-nano")
    finally:
        running.fleet.machines["sim-nano"] = original
    assert response.status_code == 400
    assert "not a chat completion" in response.json()["error"]["message"]
    assert len(running.fleet.seen) == seen + 2


def test_the_breaker_spares_a_broken_candidate_and_tries_it_again(running: Running) -> None:
    chosen = running.chosen()
    running.faults(**{chosen: {"500": 1.0}})
    for _ in range(FAILURES):
        assert running.chat().status_code == 200
    seen = [body["model"] for body, _ in running.fleet.seen]
    answer = running.chat()
    assert answer.json()["mixllm"]["fallback"] is None, "it was not chosen in the first place"
    assert chosen not in [body["model"] for body, _ in running.fleet.seen[len(seen) :]]
    gauge = f'mixllm_breaker_open{{llm="{chosen}"}} 1.0'
    wait_for(lambda: gauge in running.http.get("/metrics").text, OPEN_SECONDS - 1)
    running.fleet.set_faults({})
    wait_for(lambda: running.chat().json()["mixllm"]["llm"] == chosen, 2 * OPEN_SECONDS + 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_upstreams_work(stream: bool, running: Running) -> None:
    running.settle()
    machine = running.fleet.machines["sim-frontier"]
    before = machine.cancelled
    running.faults(sim_frontier={"slow": 1.0})
    body = {"model": "sim-frontier", "messages": asked(), "stream": stream}
    if stream:
        with running.http.stream("POST", "/v1/chat/completions", json=body) as found:
            next(found.iter_lines())
    else:
        with pytest.raises(httpx.TimeoutException):
            running.http.post("/v1/chat/completions", json=body, timeout=0.6)
    wait_for(lambda: machine.cancelled == before + 1, 5)
    wait_for(lambda: machine.active == 0, 5)
    wait_for(lambda: '"status": "cancelled"' in running.log.read_text(), 5)
    running.settle()


def test_more_than_a_candidate_takes_at_once_waits_and_drives_others_away(running: Running) -> None:
    running.settle()
    running.faults(sim_nano={"slow": 1.0})
    answers: list[httpx.Response] = []

    def one() -> None:
        answers.append(running.chat(model="sim-nano"))

    threads = [threading.Thread(target=one) for _ in range(24)]
    for thread in threads:
        thread.start()
    active = []
    for _ in range(40):
        active.append(running.fleet.machines["sim-nano"].active)
        time.sleep(0.01)
    assert max(active) == 8, "the catalog's concurrency is reached, and kept"
    body = {"query": QUESTION, "candidates": ["sim-nano"], "explain": True}
    explained = running.http.post("/v1/route", json=body).json()["explanation"]["scores"][0]
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    running.settle()
    later = running.http.post("/v1/route", json=body).json()["explanation"]["scores"][0]
    assert explained["predicted_seconds"] > later["predicted_seconds"]


def test_the_catalog_is_read_again_and_its_rates_are_kept(running: Running) -> None:
    running.settle()
    path = running.home / "catalog.yaml"
    before = path.read_text()
    data = yaml.safe_load(before)
    nano = next(entry for entry in data["llms"] if entry["name"] == "sim-nano")
    nano["upstream"]["requests_per_minute"] = 2
    path.write_text(yaml.safe_dump(data))
    try:
        wait_for(lambda: running.chat(model="sim-nano").status_code == 429, 20)
        refused = running.chat(model="sim-nano").json()["error"]
        assert "is at its per-minute limit" in refused["message"]
        cheap = running.chat(mixllm={"willingness_to_pay": 1e-9}).json()["mixllm"]
        assert cheap["llm"] != "sim-nano", "who has no request left is not chosen"
        path.write_text("llms: [")
        assert running.chat().status_code == 200
        told = wait_for(lambda: running.http.get("/v1/release").json()["catalog_error"])
        assert "not YAML" in told
    finally:
        path.write_text(before)
    wait_for(lambda: running.chat(model="sim-nano").status_code == 200, 20)


def test_what_clients_report_moves_the_predicted_time(running: Running) -> None:
    body = {"query": QUESTION, "candidates": ["sim-coder"]}

    def route() -> dict[str, Any]:
        found: dict[str, Any] = running.http.post("/v1/route", json=body).json()
        return found

    before = route()["predicted"]["seconds"]
    for _ in range(10):
        decision = route()
        seen = {"decision_id": decision["decision_id"], "seconds": 60.0, "response_tokens": 5}
        seen |= {"prompt_tokens": 20}
        assert running.http.post("/v1/observations", json=seen).status_code == 202
        assert running.http.post("/v1/observations", json=seen).status_code == 202
    assert route()["predicted"]["seconds"] > 3 * before
    stored = running.http.get(f"/v1/decisions/{decision['decision_id']}").json()["answer"]
    assert (stored["status"], stored["seconds"]) == ("reported", 60.0)
    unknown = {"decision_id": "0" * 8 + "-0000-7000-8000-" + "0" * 12, "seconds": 1.0}
    assert running.http.post("/v1/observations", json=unknown).status_code == 404


def test_a_conversation_stays_with_its_llm_while_changing_costs(running: Running) -> None:
    running.settle()
    options = {"session": "s-1", "switching_cost": 5.0}
    first = running.chat(mixllm={**options, "willingness_to_pay": 1e-9}).json()["mixllm"]["llm"]
    stays = running.chat(mixllm={**options, "willingness_to_pay": 100.0}).json()["mixllm"]["llm"]
    free = running.chat(mixllm={"session": "s-1", "willingness_to_pay": 100.0}).json()["mixllm"]
    assert first == stays == "sim-nano"
    assert free["llm"] != "sim-nano"


def test_traces_run_from_the_request_to_the_upstream(running: Running) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    body = {"model": "mixllm", "messages": asked()}
    assert running.http.post("/v1/chat/completions", json=body, headers=headers).is_success
    _, sent = running.fleet.seen[-1]
    lowered = {key.lower(): value for key, value in sent.items()}
    assert lowered["traceparent"].split("-")[1] == trace
    exported = wait_for(lambda: [raw for raw in running.spans if bytes.fromhex(trace) in raw], 10)
    for name in (b"chat", b"route", b"upstream", b"mixllm.decision_id"):
        assert any(name in raw for raw in exported)


def test_metrics_tell_what_happened(running: Running) -> None:
    running.chat(stream=True)
    wait_for(lambda: "mixllm_in_flight" in running.http.get("/metrics").text)
    metrics = running.http.get("/metrics").text
    for name in (
        "answers_total", "answer_cost_usd_total", "answer_seconds_bucket", "first_token_seconds_bucket",
        "predicted_response_tokens_total", "observed_response_tokens_total", "gateway_seconds_bucket",
        "upstream_failures_total", "replaced_total", "waiting_seconds", "in_flight", "breaker_open",
        "refused_total", "unwritten_rows",
    ):  # fmt: skip
        assert f"mixllm_{name}" in metrics, name


def test_no_request_makes_it_fail(running: Running) -> None:
    described = schemathesis.openapi.from_url(f"{running.http.base_url}/v1/openapi.json")
    operations = []
    for described_operation in described.get_all_operations():
        assert isinstance(described_operation, Ok)
        operations.append(described_operation.ok())
    assert len(operations) >= 7
    wanted = [checks.not_a_server_error, checks.content_type_conformance]
    wanted += [checks.status_code_conformance, checks.response_schema_conformance]
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=20, deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        def fuzz(case: Any) -> None:
            case.call_and_validate(checks=wanted)

        fuzz()


def test_a_hung_postgres_costs_a_look_up_a_503_and_no_llm_request(
    running: Running, machine_home: Path
) -> None:
    running.settle()
    unknown = f"/v1/decisions/{UUID(int=1)}"
    assert running.http.get(unknown).status_code == 404
    server = psutil.Process(int((machine_home / "postgres/postmaster.pid").read_text().split()[0]))
    family = [server, *server.children(recursive=True)]
    found: list[tuple[int, float]] = []

    def look() -> None:
        begun = time.monotonic()
        status = running.http.get(unknown).status_code
        found.append((status, time.monotonic() - begun))

    threads = [threading.Thread(target=look) for _ in range(60)]
    for process in family:
        process.suspend()
    try:
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert running.chat(model="sim-nano").status_code == 200
        decided = running.http.post("/v1/route", json={"query": QUESTION}).json()
        vote = {"decision_id": decided["decision_id"], "satisfied": True}
        assert running.http.post("/v1/feedback", json=vote).status_code == 200
        for thread in threads:
            thread.join()
    finally:
        for process in family:
            process.resume()
    assert {status for status, _ in found} == {503}
    assert max(seconds for _, seconds in found) < 10
    wait_for(lambda: running.http.get(unknown).status_code == 404, 20)


def test_keys_are_asked_for_once_there_are_any(running: Running, simulated: EvaluationSet) -> None:
    engine = connect(running.database)
    _, route = create_key(engine, "app", ["route"])
    _, admin = create_key(engine, "ops", ["admin"])
    _, hasty = create_key(engine, "hasty", ["route"], KeyOptions(requests_per_minute=2))
    _, poor = create_key(engine, "poor", ["route"], KeyOptions(monthly_budget_usd=1e-9))
    try:
        wait_for(lambda: running.chat().status_code == 401, 10)
        body = {"model": "mixllm", "messages": asked()}

        def status(path: str, key: str, **header: str) -> int:
            headers = {"authorization": f"Bearer {key}", **header}
            return running.http.post(path, json=body, headers=headers).status_code

        chat = "/v1/chat/completions"
        assert status(chat, route) == 200
        assert status(chat, f"{route}x") == 401
        assert status("/v1/refresh", route) == 403
        assert status("/v1/refresh", admin) == 200
        assert [status(chat, hasty) for _ in range(3)] == [200, 200, 429]
        assert status(chat, poor) == 429
        assert all(key not in running.log.read_text() for key in (route, admin, hasty, poor))
        assert QUESTION not in running.log.read_text(), "no prompt in the log"
        stored = (running.home / "keys.json").read_text()
        assert route not in stored
    finally:
        for name in ("app", "ops", "hasty", "poor"):
            revoke_key(engine, name)
        time.sleep(1.5)  # three looks of the service
        refused = running.chat()
        assert refused.status_code == 401, "the last key's revocation opens no door"
        assert "mixllm keys open" in refused.json()["error"]["message"]
        open_access(engine)
        engine.dispose()
        wait_for(lambda: running.chat().status_code == 200, 10)


def test_thirty_requests_at_once_do_not_pass_a_budget(running: Running) -> None:
    running.settle()
    cost = running.chat(model="sim-nano").json()["mixllm"]["cost_usd"]
    budget = 8 * cost
    engine = connect(running.database)
    key, secret = create_key(engine, "capped", ["route"], KeyOptions(monthly_budget_usd=budget))
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": "sim-nano", "messages": asked()}
    try:
        post = running.http.post
        chat = "/v1/chat/completions"
        wait_for(lambda: post(chat, json=body, headers=headers).status_code in (200, 429), 10)
        wait_for(lambda: running.chat().status_code == 401, 10)
        answers: list[httpx.Response] = []

        def one(stream: bool) -> None:
            answers.append(post(chat, json={**body, "stream": stream}, headers=headers))

        for _ in range(3):
            threads = [threading.Thread(target=one, args=(i % 2 == 0,)) for i in range(30)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        errors = [answer.json()["error"] for answer in answers if answer.status_code == 429]
        assert {error["code"] for error in errors} == {"insufficient_quota"}
        assert all("e-" not in error["message"].split("$")[1] for error in errors)
        spent = wait_for(lambda: spent_this_month(engine).get(key.id), 10)
        time.sleep(0.5)  # the last answers reach Postgres
        spent = spent_this_month(engine)[key.id]
        assert 4 * cost < spent <= budget, "most of the budget is used, and none beyond it"
    finally:
        revoke_key(engine, "capped")
        open_access(engine)
        engine.dispose()
        wait_for(lambda: running.chat().status_code == 200, 10)


def test_a_report_on_ones_own_running_stream_hides_no_cost(running: Running) -> None:
    running.settle()
    running.faults(sim_nano={"slow": 1.0})
    body = {"model": "sim-nano", "messages": asked(), "stream": True}
    try:
        with running.http.stream("POST", "/v1/chat/completions", json=body) as response:
            identity = response.headers["x-mixllm-decision-id"]
            told = {"decision_id": identity, "seconds": 0.1}
            told |= {"prompt_tokens": 0, "response_tokens": 0}
            reported = running.http.post("/v1/observations", json=told)
            assert (reported.status_code, reported.json()) == (202, {"status": "known already"})
            assert running.http.get(f"/v1/decisions/{identity}").json()["answer"] is None
            response.read()
    finally:
        running.faults()
    stored = running.http.get(f"/v1/decisions/{identity}").json()["answer"]
    assert stored["status"] == "answered"
    assert stored["cost_usd"] > 0


def test_without_a_release_the_catalogs_default_answers(running: Running, tmp_path: Path) -> None:
    environment = {
        "MIXLLM_CATALOG": str(running.home / "catalog.yaml"),
        "KEY_OF_FLEET": UPSTREAM_KEY,
    }
    process, port = start(tmp_path, running.database, tmp_path / "log", **environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(lambda: client.get("/livez").is_success)
            body = {"model": "mixllm", "messages": asked()}
            answer = client.post("/v1/chat/completions", json=body).json()
            assert answer["mixllm"]["llm"] == "sim-large"
            assert answer["mixllm"]["fallback"] == "no release is loaded"
    finally:
        stop(process)


def test_an_upstream_without_its_key_is_passed_over(running: Running, tmp_path: Path) -> None:
    catalog = (running.home / "catalog.yaml").read_text()
    path = tmp_path / "catalog.yaml"
    path.write_text(catalog.replace("KEY_OF_FLEET", "NO_KEY"))
    process, port = start(
        running.home, running.database, tmp_path / "log", MIXLLM_CATALOG=str(path)
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(lambda: client.get("/readyz").is_success)
            body = {"model": "mixllm", "messages": asked()}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 502
            assert "NO_KEY, the key of sim-" in answer.json()["error"]["message"]
    finally:
        stop(process)
