"""Metrics of requests: by route, and bounded whatever clients send."""

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

# The service takes its metrics from BentoML, whose module warns.
pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")


@pytest.fixture
def client() -> TestClient:
    from serving.http.app import create_app

    def admit(*_: Any) -> None:
        raise HTTPException(401)

    state: Any = SimpleNamespace(keys=SimpleNamespace(admit=admit))
    app = create_app(lambda: state, max_body=10_000)
    return TestClient(app, raise_server_exceptions=False)


def series(client: TestClient) -> set[tuple[str, ...]]:
    """The labels of every series of requests."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *sorted(sample.labels.values()))
        for family in families
        if family.name.startswith("mixllm_request")
        for sample in family.samples
    }


def ask_anything(client: TestClient) -> None:
    odd = uuid.uuid4().hex
    for path in (f"/v1/decisions/{uuid.uuid4()}", f"/v1/models/{odd}", f"/v1/{odd}", f"/{odd}/x"):
        client.get(path)
        client.head(path)
        client.request(odd.upper(), path)
    client.post("/v1/feedback", content=b"{" * 20_000)
    client.get("/v1/decisions/x", headers={"x": "y" * 40_000})


def test_what_clients_make_up_takes_no_series(client: TestClient) -> None:
    ask_anything(client)
    series(client)  # which is a request too
    before = series(client)
    for _ in range(20):
        ask_anything(client)
    assert series(client) == before
    assert any("/v1/models/{model_id:path}" in labels for labels in before)


def test_a_request_that_fails_is_counted_and_no_longer_under_way() -> None:
    from serving import metrics
    from serving.http.request_metrics import CountRequests

    async def fails(*_: Any) -> None:
        raise OSError("gone")

    unused: Any = None  # it fails before it receives or sends
    scope = {"type": "http", "method": "GET", "path": "/"}
    counter = metrics.requests.labels("other", "GET", "500")
    before = counter._value.get()
    under_way = metrics.requests_in_progress._value.get()
    with pytest.raises(OSError, match="gone"):
        asyncio.run(CountRequests(fails)(scope, unused, unused))
    assert counter._value.get() == before + 1
    assert metrics.requests_in_progress._value.get() == under_way
