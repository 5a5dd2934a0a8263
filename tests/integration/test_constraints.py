"""Conditions of a request on every path that it can take, costs, and errors: the app over ASGI in this
process, in front of a fleet over HTTP."""

import concurrent.futures
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import text
from starlette.testclient import TestClient

from fleets import RecordingFleet
from infra.database import connect
from infra.fleet.answers import RecordedAnswers
from infra.fleet.server import with_upstreams
from infra.fleet.thread import FleetThread
from infra.registry.records import Canary
from infra.settings import Settings
from models.catalog import Candidate
from models.data.evaluation_set import EvaluationSet
from models.release.manifest import read_manifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's, of its own metrics
    from serving.http.app import create_app
    from serving.routing.champion import Running
    from serving.state import ServiceState

QUESTION = "Compute 17 + 4. Give only the number."
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_id": "f-1"}}
SEES = ("sim-coder", "sim-mini")
HEARS = "sim-coder"
FACTOR = 2.0  # between the two releases' prices


class UsageFleet(RecordingFleet):
    """Reports the usage that a test wants, in place of its own."""

    usage: Any = None

    async def _say(self, request: web.Request, body: dict[str, Any], *rest: Any) -> Any:
        if self.usage is None or body.get("stream"):
            return await super()._say(request, body, *rest)
        message = {"role": "assistant", "content": "plain"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "z", "object": "chat.completion", "created": 1, "model": body["model"]}
        return web.json_response({**head, "choices": [choice], "usage": self.usage})


@dataclass
class Service:
    http: TestClient
    state: ServiceState
    fleet: UsageFleet
    folders: list[Path]

    def chat(self, content: Any = QUESTION, **body: Any) -> Any:
        body = {"model": "mixllm", "messages": [{"role": "user", "content": content}], **body}
        return self.http.post("/v1/chat/completions", json=body)

    def llm(self, content: Any = QUESTION, **body: Any) -> str:
        response = self.chat(content, **body)
        assert response.status_code == 200, response.text
        return str(response.json()["mixllm"]["llm"])


def able(entry: Candidate, factor: float) -> Candidate:
    """An entry with this test's abilities and prices."""
    abilities: tuple[str, ...] = ("images", "tools") if entry.name in SEES else ()
    abilities += ("audio",) if entry.name == HEARS else ()
    prices = {
        "input_price": factor * entry.input_price,
        "output_price": factor * entry.output_price,
    }
    return entry.model_copy(update={"abilities": abilities, **prices})


def answer_with(state: ServiceState, version: str, folder: Path) -> None:
    """Swap to a release, as a promotion does once its files are here."""
    state.champion._answer_with(state.champion._checked(version, folder, "registry"))


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    release_folder: Path,
    postgres: str,
    simulated: EvaluationSet,
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("constraints")
    admin = connect(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE constraints"))
    database = admin.url.set(database="constraints").render_as_string(hide_password=False)
    admin.dispose()
    folders = []
    for number, factor in enumerate((1.0, FACTOR)):
        folder = home / f"release-{number + 1}"
        shutil.copytree(release_folder, folder)
        manifest = read_manifest(folder)
        llms = tuple(able(entry, factor) for entry in manifest.catalog.llms)
        catalog = manifest.catalog.model_copy(update={"llms": llms})
        # Alike in every choice: what an answer is worth is scaled with the prices.
        defaults = manifest.defaults
        scaled = {"willingness_to_pay": factor * defaults.willingness_to_pay}
        changed = {"catalog": catalog, "defaults": defaults.model_copy(update=scaled)}
        manifest.model_copy(update=changed).write(folder)
        folders.append(folder)
    fleet = UsageFleet(simulated.catalog, RecordedAnswers(simulated), 64, float("inf"))
    with FleetThread(fleet) as thread:
        upstreams = with_upstreams(simulated.catalog, thread.address, retries=0)
        machine = upstreams.model_copy(
            update={
                "llms": tuple(
                    entry.model_copy(update={"cached_input_price": entry.input_price / 10})
                    for entry in upstreams.llms
                )
            }
        )
        (home / "catalog.yaml").write_text(machine.dump_yaml())
        settings = Settings(
            home=home,
            database_url=SecretStr(database),
            catalog=home / "catalog.yaml",
            poll_seconds=3600,
        )
        state = ServiceState(settings)
        state.start()
        answer_with(state, "1", folders[0])
        app = create_app(lambda: state, settings.max_body_bytes)
        with TestClient(app, raise_server_exceptions=False) as http:
            yield Service(http, state, fleet, folders)
            assert http.portal is not None
            http.portal.call(state.gateway.close)
        state.stop()


Path_ = Callable[[Service, pytest.MonkeyPatch], None]


def routed(service: Service, patch: pytest.MonkeyPatch) -> None:
    """All is well."""


def routing_fails(service: Service, patch: pytest.MonkeyPatch) -> None:
    running = service.state.champion.running
    assert running is not None

    def fail(*_: Any) -> None:
        raise RuntimeError("the encoder is broken")

    patch.setattr(running.release.encoder, "encode_tokens", fail)


def without_a_release(service: Service, patch: pytest.MonkeyPatch) -> None:
    running, spare = service.state.champion.running, service.state.champion.spare_catalog
    assert running is not None
    assert spare is not None
    llms = tuple(able(entry, 1.0) for entry in spare.llms)
    patch.setattr(service.state.champion, "spare_catalog", spare.model_copy(update={"llms": llms}))
    patch.setattr(service.state.champion, "running", None)


def of_a_canary(service: Service, patch: pytest.MonkeyPatch) -> None:
    running = service.state.champion.running
    assert running is not None
    canary = Running(running.release, "9", "registry", 0.0)
    patch.setattr(service.state.challenger, "running", canary)
    patch.setattr(service.state.challenger, "canary", Canary(version="9", share=1.0, by="traffic"))


PATHS = [routed, routing_fails, without_a_release, of_a_canary]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("options", [
    {}, {"exploration": {"kind": "epsilon", "epsilon": 1.0}}, {"willingness_to_pay": 1e-9},
    {"session": "told", "switching_cost": 5.0},
])  # fmt: skip
def test_images_go_to_who_sees_on_every_path(
    path: Path_, words: bool, options: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.state.router.sessions.note(None, "told", "sim-large")
    path(service, monkeypatch)
    parts = [{"type": "text", "text": QUESTION}, IMAGE] if words else [IMAGE]
    assert service.llm(parts, mixllm=options) in SEES
    assert service.llm([*parts, SOUND], mixllm=options) == HEARS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "options", "param", "words"),
    [
        ([FILE], {}, "abilities", "'files'"),
        ([IMAGE], {"candidates": ["sim-large"]}, "abilities", "'images'"),
        ([IMAGE], {"max_cost": 1e-12}, "max_cost", "cheapest"),
        (QUESTION, {"max_cost": 1e-12}, "max_cost", "cheapest"),
        (QUESTION, {"abilities": ["flight"]}, "abilities", "'flight'"),
        ([IMAGE], {"min_quality": 0.5}, "min_quality", "no text to route by"),
    ],
)
def test_where_nobody_may_be_asked_the_error_says_what_was_needed(
    path: Path_,
    content: Any,
    options: Any,
    param: str,
    words: str,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path(service, monkeypatch)
    seen = len(service.fleet.seen)
    response = service.chat(content, mixllm=options)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, param)
    assert words in error["message"]
    assert len(service.fleet.seen) == seen, "nobody was asked"


def test_the_disabled_and_the_failed_are_not_replaced_by_who_cannot(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.state.champion, "disabled", frozenset(["sim-coder"]))
    assert service.llm([IMAGE]) == "sim-mini"
    service.fleet.set_faults({"sim-mini": {"500": 1.0}})
    try:
        for content in ([IMAGE], [{"type": "text", "text": QUESTION}, IMAGE]):
            failed = service.chat(content)
            assert failed.status_code == 502
            assert failed.json()["error"]["message"].count("answered 500") == 1
    finally:
        service.fleet.set_faults({})
    monkeypatch.setattr(service.state.champion, "disabled", frozenset(SEES))
    assert service.chat([IMAGE]).json()["error"]["param"] == "abilities"


def test_a_prompt_that_fits_nobody_is_refused_without_asking(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = service.state.champion.running
    assert running is not None
    manifest = running.release.manifest
    llms = tuple(e.model_copy(update={"context_window": 500}) for e in manifest.catalog.llms)
    small = manifest.model_copy(
        update={"catalog": manifest.catalog.model_copy(update={"llms": llms})}
    )
    monkeypatch.setattr(running.release, "manifest", small)
    monkeypatch.setattr(running.release, "_windows", np.full(len(llms), 500.0))
    response = service.chat("word " * 3000)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert service.chat(model="sim-nano", content="word " * 3000).status_code == 200, "pinned"


def test_the_cost_is_the_same_everywhere(service: Service) -> None:
    service.fleet.usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "total_tokens": 1600,
        "prompt_tokens_details": {"cached_tokens": 900},
        "completion_tokens_details": {"reasoning_tokens": 500},
    }
    try:
        response = service.chat(model="sim-nano")
    finally:
        service.fleet.usage = None
    running = service.state.champion.running
    assert running is not None
    entry = running.release.manifest.catalog.get("sim-nano")
    expected = (entry.input_price * (100 + 90) + entry.output_price * 600) / 1e6
    told = response.json()["mixllm"]
    stored = service.http.get(f"/v1/decisions/{told['decision_id']}").json()["answer"]
    assert told["cost_usd"] == pytest.approx(expected)
    assert float(response.headers["x-mixllm-cost-usd"]) == told["cost_usd"] == stored["cost_usd"]
    assert (stored["prompt_tokens"], stored["response_tokens"]) == (1000, 600)
    assert told["usage"] == "reported"


NULLS = (
    "stream", "stream_options", "tools", "tool_choice", "functions", "temperature", "top_p", "n",
    "stop", "max_tokens", "max_completion_tokens", "response_format", "seed", "user", "logprobs",
    "modalities", "audio", "metadata", "reasoning_effort", "mixllm",
)  # fmt: skip


def test_what_is_null_is_absent(service: Service) -> None:
    assert service.chat(**dict.fromkeys(NULLS)).status_code == 200
    sent, _ = service.fleet.seen[-1]
    assert set(sent) == {"model", "messages"}
    options = (
        "willingness_to_pay", "min_quality", "max_cost", "candidates", "abilities", "beta",
        "time_limit", "switching_cost", "exploration", "session", "fallback",
    )  # fmt: skip
    assert service.chat(mixllm=dict.fromkeys(options)).status_code == 200
    odd = {"exploration": {"kind": "epsilon", "epsilon": None, "max_extra_usd": None}}
    assert service.chat(mixllm=odd).status_code == 200
    assert service.chat(stream=True, stream_options={"include_usage": None}).status_code == 200
    nothing = dict.fromkeys([*options[:-1], "explain"])
    assert service.http.post("/v1/route", json={"query": "x", **nothing}).status_code == 200
    route = service.http.post("/v1/route", json={"query": "x"}).json()
    vote = {"decision_id": route["decision_id"], "satisfied": True, "source": None, "quality": None}
    assert service.http.post("/v1/feedback", json=vote).status_code == 200
    told = {"decision_id": route["decision_id"], "seconds": 1.0, "failed": None}
    assert service.http.post("/v1/observations", json=told).status_code == 202


def test_a_model_can_be_looked_up_by_its_name(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = service.state.gateway.endpoints
    monkeypatch.setitem(endpoints, "meta-llama/llama-3.1/8b", endpoints["sim-nano"])
    for name in ("mixllm", "sim-nano", "meta-llama/llama-3.1/8b"):
        assert service.http.get(f"/v1/models/{name}").json()["id"] == name
    quoted = service.http.get("/v1/models/meta-llama%2Fllama-3.1%2F8b")
    assert quoted.json()["id"] == "meta-llama/llama-3.1/8b"
    error = service.http.get("/v1/models/sim-nan").json()["error"]
    assert error["code"] == "model_not_found"
    assert "did you mean 'sim-nano'?" in error["message"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("mixlm", "did you mean 'mixllm'?"),
        ("MixLLM", "did you mean 'mixllm'"),
        ("gpt-4o", "did you mean 'mixllm', which chooses one?"),
        ("sim-lage", "did you mean 'sim-large'?"),
        ("<script>alert(1)</script>", "no model '<script>alert(1)</script>'"),
        ("x" * 150, "xxx…"),
    ],
)
def test_an_unknown_model_is_answered_with_the_one_that_was_meant(
    model: str, words: str, service: Service
) -> None:
    response = service.chat(model=model)
    error = response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    assert (response.status_code, error["code"], error["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert words in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/v1/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/chat/completions/", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/api/chat", 404, "did you mean /v1/chat/completions?"),
        ("GET", "/v1/chat/completions", 405, "use POST"),
        ("DELETE", "/v1/models", 405, "use GET"),
        ("GET", "/nothing", 404, "no path /nothing"),
        ("PROPFIND", "/v1/models", 405, ""),
    ],
)
def test_every_path_is_answered_in_json(
    method: str, path: str, status: int, words: str, service: Service
) -> None:
    response = service.http.request(method, path, json={})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"type", "message", "param", "code"}
    assert words in error["message"]


def test_a_head_is_a_get_without_its_body(service: Service) -> None:
    for path, status in (("/v1/models", 200), ("/nothing", 404), ("/v1/chat/completions", 405)):
        response = service.http.head(path)
        assert (response.status_code, response.content) == (status, b"")


def test_five_swaps_under_traffic_fail_no_request_and_mix_no_releases(service: Service) -> None:
    state = service.state
    running = state.champion.running
    assert running is not None
    prices = {
        str(number + 1): {c.name: c for c in read_manifest(folder).catalog.llms}
        for number, folder in enumerate(service.folders)
    }
    done = False
    seen: list[tuple[int, dict[str, Any]]] = []

    def ask(client: int) -> None:
        while not done:
            response = service.chat(f"{QUESTION} ({client}, {len(seen)})", stream=client == 0)
            whole = {} if client == 0 else response.json()
            seen.append((response.status_code, whole))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(ask, number) for number in range(3)]
        try:
            for swap in range(5):
                number = 1 - swap % 2
                count = len(seen)
                answer_with(state, str(number + 1), service.folders[number])
                while len(seen) < count + 12 and not any(client.done() for client in clients):
                    concurrent.futures.wait(clients, timeout=0.02)
        finally:
            done = True
            for client in clients:
                client.result()
            answer_with(state, "1", service.folders[0])
    assert {status for status, _ in seen} == {200}
    plain = [answer for _, answer in seen if answer]
    assert {answer["mixllm"]["release"] for answer in plain} == {"1", "2"}
    for answer in plain:
        told, usage = answer["mixllm"], answer["usage"]
        entry = prices[told["release"]][told["llm"]]
        usd = (
            entry.input_price * usage["prompt_tokens"]
            + entry.output_price * usage["completion_tokens"]
        )
        assert told["cost_usd"] == pytest.approx(usd / 1e6), "billed by the release that decided"
        stored, _ = state.decision_log.rows_of(UUID(told["decision_id"]))
        assert stored is not None
        assert stored["release_version"] == told["release"]
