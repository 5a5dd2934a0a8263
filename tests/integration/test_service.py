"""The real BentoML service over HTTP on loopback, where training's packages cannot be imported."""

import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from sqlalchemy import text

from infra.database import connect
from infra.registry.records import PREVIOUS
from infra.registry.registry import Registry
from monitoring.store.decisions import read_decision
from processes import free_port, start, stop, wait_for

NANO = {"query": "Which day falls 900 days after Monday?", "candidates": ["sim-nano"]}


@dataclass
class Service:
    client: httpx.Client
    registry: Registry
    process: subprocess.Popen[bytes]
    log: Path
    database: str
    home: Path


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
        connection.execute(text("CREATE DATABASE service"))
    database = admin.url.set(database="service").render_as_string(hide_password=False)
    admin.dispose()
    reports = tmp_path_factory.mktemp("reports")
    registry = new_registry(home)
    for run in ("run-1", "run-2"):
        registry.register_release(release_folder, {}, {}, reports, run)
    log = home / "service.log"
    names = {
        "MIXLLM_ALLOWED_HOSTS": "gate.example",
        "MIXLLM_ALLOWED_ORIGINS": "https://app.example,app://notes",
    }
    process, port = start(home, database, log, **names)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        wait_for(lambda: client.get("/livez").is_success)
        made = Service(client, registry, process, log, database, home)
        check_not_ready(made)
        registry.promote("1")
        wait_for(lambda: client.get("/readyz").is_success)
        yield made
    stop(process)


def check_not_ready(service: Service) -> None:
    assert service.client.get("/readyz").status_code == 503
    answer = service.client.post("/v1/route", json={"query": "hello"})
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "unavailable"


def test_it_routes_without_what_trains(service: Service) -> None:
    body = {"query": "Compute 2 + 2. Give only the number.", "explain": True}
    response = service.client.post("/v1/route", json=body)
    answer = response.json()
    assert response.status_code == 200
    assert answer["release"] in ("1", "2")
    assert answer["propensity"] == 1.0
    assert answer["fallback"] is None
    assert 0 <= answer["predicted"]["quality"] <= 1
    assert answer["explanation"]["scores"][0]["llm"] == answer["llm"]
    parts = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert set(parts) == {"tokenize", "encode", "predict", "decide", "total"}
    assert "import guard" not in service.log.read_text()


PATHS = ["/", "/v1/docs", "/v1/openapi.json", "/v1/models", "/v1/release", "/v1/refresh",
         "/v1/route", "/v1/chat/completions", "/livez", "/readyz", "/healthz", "/metrics",
         "/docs.json", "/schema.json", "/static_content/swagger-ui.css", "/nothing"]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "host_not_allowed"),
        ({"host": "evil.example:3000", "origin": "http://evil.example:3000"}, "host_not_allowed"),
        ({"origin": "http://evil.example"}, "origin_not_allowed"),
        ({"origin": "http://app.example"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "origin_not_allowed"),
    ],
)
def test_no_path_answers_another_page_or_another_name(
    service: Service, headers: dict[str, str], code: str
) -> None:
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            answer = service.client.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path)
            assert answer.json()["error"]["code"] == code
            assert "access-control-allow-origin" not in answer.headers


def test_its_own_names_and_pages_are_answered(service: Service) -> None:
    own = str(service.client.base_url).rstrip("/")
    for headers in (
        {"host": "gate.example"},
        {"host": "gate.example", "origin": "https://gate.example"},
        {"host": "localhost:1"},
        {"origin": own},
    ):
        answer = service.client.post("/v1/route", json={"query": "hello"}, headers=headers)
        assert answer.status_code == 200, headers


@pytest.mark.parametrize("origin", ["https://app.example", "app://notes"])
def test_pages_of_an_allowed_origin_use_it(service: Service, origin: str) -> None:
    site = {"origin": origin, "sec-fetch-site": "cross-site"}
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-mixllm-max-cost",
    }
    for path in ("/v1/chat/completions", "/v1/route", "/v1/feedback"):
        asked = service.client.options(path, headers={**site, **preflight})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "x-mixllm-max-cost" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
    routed = service.client.post("/v1/route", json={"query": "hello"}, headers=site)
    assert routed.status_code == 200
    assert routed.headers["access-control-allow-origin"] == origin
    assert "x-mixllm-llm" in routed.headers["access-control-expose-headers"].lower()
    refused = service.client.post("/v1/route", json={}, headers=site)
    assert refused.status_code == 422
    assert refused.headers["access-control-allow-origin"] == origin, "the page may read why"


def test_nothing_else_listens(service: Service) -> None:
    """BentoML's supervisor would take commands from anybody on two ports of its own."""
    family = [psutil.Process(service.process.pid)]
    family += family[0].children(recursive=True)
    listening = {
        connection.laddr.port
        for member in family
        for connection in member.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }
    assert listening == {service.client.base_url.port}


def test_what_the_service_keeps_is_private(service: Service) -> None:
    paths = [service.home, *service.home.rglob("*")]
    assert [path for path in paths if path.lstat().st_mode & 0o077] == []


def test_options_are_respected(service: Service) -> None:
    query = "Which day of the week falls 1577 days after 22 February 2022?"
    cheap = service.client.post("/v1/route", json={"query": query, "willingness_to_pay": 1e-7})
    dear = service.client.post("/v1/route", json={"query": query, "willingness_to_pay": 100.0})
    assert cheap.json()["llm"] == "sim-nano"
    assert dear.json()["predicted"]["quality"] >= cheap.json()["predicted"]["quality"]
    body = {"query": query, "candidates": ["sim-mini", "sim-coder"]}
    assert service.client.post("/v1/route", json=body).json()["llm"] in body["candidates"]


def test_a_decision_can_be_read_back_at_once_and_from_the_table(service: Service) -> None:
    answer = service.client.post("/v1/route", json={"query": "hello"}).json()
    path = f"/v1/decisions/{answer['decision_id']}"
    assert service.client.get(path).json()["llm"] == answer["llm"]
    assert service.client.get(f"/v1/decisions/{uuid4()}").status_code == 404  # the table is made
    engine = connect(service.database)
    stored = wait_for(lambda: read_decision(engine, UUID(answer["decision_id"])))
    engine.dispose()
    assert stored["llm"] == answer["llm"]
    assert stored["release_version"] == answer["release"]
    assert stored["query"] is None, "queries are stored as hashes unless asked for"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/v1/route", {}, 422, "query"),
        ("POST", "/v1/route", {"query": ""}, 422, "query"),
        ("POST", "/v1/route", {"query": "   "}, 422, None),
        ("POST", "/v1/route", {"query": 3}, 422, "query"),
        ("POST", "/v1/route", {"query": "x", "lambda": 1}, 422, "lambda"),
        ("POST", "/v1/route", {"query": "x", "willingness_to_pay": -1}, 422, "willingness_to_pay"),
        ("POST", "/v1/route", {"query": "x", "candidates": []}, 422, "candidates"),
        ("POST", "/v1/route", {"query": "x", "candidates": ["gpt-99"]}, 422, "candidates"),
        ("POST", "/v1/route", {"query": "x", "min_quality": 1.1}, 422, "min_quality"),
        ("POST", "/v1/route", {**NANO, "min_quality": 0.99}, 422, "min_quality"),
        ("POST", "/v1/route", {"query": "x", "max_cost": 1e-12}, 422, "max_cost"),
        ("POST", "/v1/route", {"query": "x", "abilities": ["fly"]}, 422, "abilities"),
        ("POST", "/v1/route", None, 422, None),
        ("GET", "/v1/decisions/nonsense", None, 422, "path.decision_id"),
        ("GET", f"/v1/decisions/{UUID(int=0)}", None, 404, None),
        ("GET", "/v1/nothing", None, 404, None),
        ("GET", "/v1/models/a%0Ab", None, 404, "model"),
        ("GET", "/v1/nothing%0A", None, 404, None),
        ("GET", "/%0A/v1/docs", None, 404, None),
        ("POST", "/v1/feedback%0Ax/y", {}, 404, None),
        ("DELETE", "/v1/route", None, 405, None),
    ],
)
def test_every_error_has_one_form(
    method: str, path: str, body: Any, status: int, param: str | None, service: Service
) -> None:
    response = service.client.request(method, path, json=body)
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"type", "message", "param", "code"}
    assert error["param"] == param
    assert error["message"]


def test_broken_json_is_named(service: Service) -> None:
    headers = {"content-type": "application/json"}
    response = service.client.post("/v1/route", content=b'{"query": ', headers=headers)
    assert response.status_code == 422
    assert "JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize("query", ["🙂" * 1000, "\u0000", "x" * 200_000])
def test_odd_queries_are_routed(query: str, service: Service) -> None:
    assert service.client.post("/v1/route", json={"query": query}).status_code == 200


def test_the_disabled_are_out_at_once(service: Service) -> None:
    names = service.client.get("/v1/release").json()["candidates"]
    gone = [name for name in names if name != "sim-coder"]
    service.registry.set_disabled(gone)
    assert service.client.post("/v1/refresh").status_code == 200
    wait_for(lambda: service.client.get("/v1/release").json()["disabled"] == sorted(gone), 5)
    body = {"query": "hello", "willingness_to_pay": 100.0}
    assert service.client.post("/v1/route", json=body).json()["llm"] == "sim-coder"
    service.registry.set_disabled([])
    service.client.post("/v1/refresh")
    wait_for(lambda: service.client.get("/v1/release").json()["disabled"] == [], 5)


def test_metrics_and_descriptions_are_there(service: Service) -> None:
    service.client.post("/v1/route", json={"query": "hello"})
    metrics = service.client.get("/metrics").text
    assert re.search(r'mixllm_decisions_total\{llm="sim-\w+",release="\d"\} \d', metrics)
    assert 'mixllm_route_seconds_bucket{le="+Inf",part="encode"}' in metrics
    assert re.search(
        r'mixllm_requests_total\{method="POST",route="/v1/route",status="200"\} \d', metrics
    )
    service.client.get("/v1/decisions/0b5a6f7e-8f4a-4f5c-9d0e-6f1a2b3c4d5e")
    service.client.get("/made-up-by-a-client")
    for part in ("0b5a6f7e", "made-up"):
        assert part not in service.client.get("/metrics").text, "a path that costs memory for good"
    page = service.client.get("/", follow_redirects=True)
    assert page.url.path == "/v1/docs"
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert address.startswith("/"), "the page needs nothing from another host"
        assert service.client.get(address).status_code == 200
    described = service.client.get("/v1/openapi.json").json()
    assert "/v1/route" in described["paths"]
    release = service.client.get("/v1/release").json()
    assert set(release["predictors"]) == set(release["candidates"])


def test_a_promotion_swaps_without_a_failed_request(service: Service) -> None:
    seen: list[tuple[int, str]] = []
    done = threading.Event()

    def loop() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=20) as client:
            while not done.is_set():
                response = client.post("/v1/route", json={"query": f"hello {len(seen)}"})
                seen.append((response.status_code, response.json().get("release", "")))

    thread = threading.Thread(target=loop)
    thread.start()
    # As the MLflow UI does it: the alias alone moves.
    service.registry.client.set_registered_model_alias("mixllm-router", "champion", "2")
    wait_for(lambda: any(version == "2" for _, version in seen))
    wait_for(lambda: service.registry.alias(PREVIOUS) == "1")
    service.registry.rollback()
    count = len(seen)
    wait_for(lambda: any(version == "1" for _, version in seen[count:]))
    done.set()
    thread.join()
    assert {status for status, _ in seen} == {200}
    assert service.registry.alias(PREVIOUS) == "2", "a promotion by the alias alone is remembered"


def test_a_bad_champion_is_refused_and_the_last_good_one_stays(
    service: Service, release_folder: Path, tmp_path: Path
) -> None:
    version = service.registry.register_release(release_folder, {}, {}, tmp_path, "run-bad")
    source = service.registry.client.get_model_version_download_uri("mixllm-router", version)
    manifest = Path(source.removeprefix("file://")) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"alpha": 0.01', '"alpha": -5.0'))
    running = service.client.get("/v1/release").json()["version"]
    service.registry.promote(version)
    error = wait_for(lambda: service.client.get("/v1/release").json()["last_error"])
    assert f"release {version} is refused, release {running} keeps answering" in error
    assert service.client.post("/v1/route", json={"query": "x"}).json()["release"] == running
    service.registry.rollback()
    wait_for(lambda: service.client.get("/v1/release").json()["last_error"] is None)


def test_a_restart_answers_from_disk_when_the_registry_is_gone(
    service: Service, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    process, port = start(service.home, service.database, log, MIXLLM_MLFLOW_URI=nowhere)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(lambda: client.get("/readyz").is_success)
            assert client.get("/v1/release").json()["source"] == "disk"
            assert client.post("/v1/route", json={"query": "x"}).status_code == 200
    finally:
        stop(process)


def test_without_postgres_it_routes_and_says_what_it_cannot_do(
    service: Service, tmp_path: Path
) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    process, port = start(service.home, nowhere, tmp_path / "log")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(lambda: client.get("/readyz").is_success)
            assert client.post("/v1/route", json={"query": "x"}).status_code == 200
            missing = client.get(f"/v1/decisions/{uuid4()}")
            assert missing.status_code == 503
            assert "Postgres does not answer" in missing.json()["error"]["message"]
            waiting = wait_for(lambda: client.get("/v1/release").json()["unwritten_decisions"])
            assert waiting == 1
    finally:
        stop(process)


def test_an_open_address_without_a_key_does_not_start(postgres: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process, port = start(tmp_path / "home", postgres, log, MIXLLM_HOST="0.0.0.0")
    try:
        wait_for(lambda: "refusing to listen on 0.0.0.0 without an API key" in log.read_text())
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"http://127.0.0.1:{port}/v1/route", json={"query": "x"}, timeout=2)
    finally:
        stop(process)


def test_a_key_is_asked_for_where_one_is_set(service: Service, tmp_path: Path) -> None:
    process, port = start(service.home, service.database, tmp_path / "log", MIXLLM_API_KEY="s3cret")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(lambda: client.get("/readyz").is_success)
            for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
                response = client.post("/v1/route", json={"query": "x"}, headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["type"] == "unauthorized"
            for headers in ({"x-api-key": "s3cret"}, {"authorization": "Bearer s3cret"}):
                response = client.post("/v1/route", json={"query": "x"}, headers=headers)
                assert response.status_code == 200
    finally:
        stop(process)
