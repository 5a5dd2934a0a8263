"""Bodies made to cost memory or time: refused at little cost, in the one form."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from infra.settings import Settings
from serving.keys import KeyRing
from serving.schemas import (
    ChatRequest,
    EvaluationItem,
    FeedbackBatchRequest,
    FeedbackRequest,
    Observation,
    RouteRequest,
)

KEY = "s3cret"
MANY = 5000
WRONG = [1] * MANY
UNKNOWN = {f"field{i}": 1 for i in range(MANY)}
ASKED: dict[str, Any] = {"model": "mixllm", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ChatRequest, {"model": "mixllm", "messages": [{"role": "user", "content": WRONG}]}),
        (ChatRequest, {"model": "mixllm", "messages": [{"role": 1, "content": 2}] * 2000}),
        (ChatRequest, {**ASKED, "tools": [1] * 1000}),
        (ChatRequest, {**ASKED, "mixllm": {"candidates": WRONG}}),
        (ChatRequest, {**ASKED, "mixllm": {"abilities": WRONG}}),
        (ChatRequest, {**ASKED, "mixllm": UNKNOWN}),
        (ChatRequest, {**ASKED, "mixllm": {"exploration": {"kind": "off", **UNKNOWN}}}),
        (RouteRequest, {"query": "x", "candidates": WRONG}),
        (RouteRequest, {"query": "x", **UNKNOWN}),
        (Observation, UNKNOWN),
        (FeedbackRequest, UNKNOWN),
        (FeedbackBatchRequest, UNKNOWN),
        (FeedbackBatchRequest, {"feedback": [1] * 1000}),
        (EvaluationItem, {"datasource_item": {}, "results": WRONG}),
    ],
)
def test_errors_do_not_grow_with_what_is_wrong(model: type[BaseModel], body: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(orjson.dumps(body))
    assert caught.value.error_count() <= 4


@pytest.mark.parametrize("place", ["metadata", "tools", "messages"])
def test_what_could_not_be_sent_on_is_refused(tmp_path: Path, place: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's, of its own metrics
        from serving.app import create_app

    def away() -> Any:
        raise OSError("no database in this test")

    state: Any = SimpleNamespace(keys=KeyRing(Settings(home=tmp_path, api_key=KEY), away))
    http = TestClient(create_app(lambda: state, 100_000), raise_server_exceptions=False)
    deep = b"[" * 300 + b"]" * 300
    body = {
        "metadata": b'{"model": "mixllm", "messages": [{"role": "user", "content": "x"}], "a": %b}',
        "tools": b'{"model": "m", "messages": [{"role": "user"}], "tools": [{"a": %b}]}',
        "messages": b'{"model": "mixllm", "messages": [{"role": "user", "content": "x", "a": %b}]}',
    }[place]
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    response = http.post("/v1/chat/completions", content=body % deep, headers=headers)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "the body is nested too deeply"
