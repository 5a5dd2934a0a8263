"""Bodies made to cost memory or time: refused at little cost, in the one form."""

import asyncio
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.testclient import TestClient

from infra.settings import Settings
from serving.access.keys import KeyRing
from serving.http.chat_schemas import ChatRequest
from serving.http.feedback_schemas import (
    EvaluationItem,
    FeedbackBatchRequest,
    FeedbackRequest,
    Observation,
)
from serving.http.schemas import RouteRequest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's, of its own metrics
    from serving.http import bodies
    from serving.http.app import create_app
    from serving.http.bodies import LARGE_BYTES, MAX_VALUES, BodyRequest, parse
    from serving.json_values import few_values
    from serving.lookups import Lookups

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


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The app without a database or a release, and a client with a key."""

    def away() -> Any:
        raise OSError("no database in this test")

    lookups = Lookups()
    settings = Settings(home=tmp_path_factory.mktemp("home"), api_key=SecretStr(KEY))
    state: Any = SimpleNamespace(settings=settings, keys=KeyRing(settings, away))
    state.lookups = lookups
    app = create_app(lambda: state, 20 * 2**20)
    yield TestClient(app, headers={"x-api-key": KEY}, raise_server_exceptions=False)
    lookups.stop()


def post(http: TestClient, path: str, body: bytes, kind: str = "application/json") -> Any:
    return http.post(path, content=body, headers={"content-type": kind})


@pytest.mark.parametrize("place", ["metadata", "tools", "messages"])
def test_what_could_not_be_sent_on_is_refused(http: TestClient, place: str) -> None:
    deep = b"[" * 300 + b"]" * 300
    body = {
        "metadata": b'{"model": "mixllm", "messages": [{"role": "user", "content": "x"}], "a": %b}',
        "tools": b'{"model": "m", "messages": [{"role": "user"}], "tools": [{"a": %b}]}',
        "messages": b'{"model": "mixllm", "messages": [{"role": "user", "content": "x", "a": %b}]}',
    }[place]
    response = post(http, "/v1/chat/completions", body % deep)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "the body is nested too deeply"


CHAT = "/v1/chat/completions"
MASS = MAX_VALUES + 1
ID = "0" * 36


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**ASKED, "messages": [{"role": "user", "content": [{}] * MASS}]}),
        (CHAT, {**ASKED, "messages": [{"role": "user", "content": "x", "tool_calls": [1] * MASS}]}),
        (CHAT, {**ASKED, "messages": [{"role": "user"}] * MASS}),
        (CHAT, {**ASKED, "tools": [{"type": "function"}] * MASS}),
        (CHAT, {**ASKED, "tools": [{"a": ["x"] * MASS}]}),
        (CHAT, {**ASKED, "stop": [""] * MASS}),
        (CHAT, {**ASKED, "logit_bias": {str(i): 1 for i in range(MASS)}}),
        (CHAT, {**ASKED, "mixllm": {"candidates": ["a"] * MASS}}),
        (CHAT, {**ASKED, "metadata": [[]] * MASS}),
        ("/v1/route", {"query": "x", "candidates": ["a"] * MASS}),
        ("/v1/route", {"query": "x", "abilities": [[]] * MASS}),
        ("/v1/observations", {"decision_id": ID, "seconds": [1] * MASS}),
        ("/v1/feedback", {"decision_id": ID, "comment": [1] * MASS}),
        ("/v1/feedback/batch", {"feedback": [{}] * MASS}),
    ],
)
def test_more_values_than_any_request_needs_are_refused_unparsed(
    http: TestClient, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = orjson.dumps(body)
    monkeypatch.setattr(bodies, "orjson", None)  # whatever parses it
    monkeypatch.setattr(bodies, "json", None)
    response = post(http, path, raw)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "too_many_values"
    assert error["message"].startswith(f"the body has over {MAX_VALUES} values")


def test_an_import_refuses_lines_without_end_and_lines_of_too_many_values(http: TestClient) -> None:
    response = post(http, "/v1/feedback/import", b"\n \n" * 2_000_000, "text/plain")
    assert (response.status_code, response.json()["error"]["message"]) == (
        422,
        "over 1000 lines; send at most 1000 at a time",
    )
    line = orjson.dumps({"datasource_item": {"decision_id": ID}, "results": [{}] * MASS})
    response = post(http, "/v1/feedback/import", line, "text/plain")
    assert response.status_code == 200, response.text
    (refused,) = response.json()["refused"]
    assert refused["message"].startswith(f"the body has over {MAX_VALUES} values")


@pytest.mark.parametrize(
    "text",
    [
        "a, b, [c] and {d}" * 1000,
        '"quoted", "and", "so", "on"' * 1000,
        "back\\slashes\\\\, [\\" * 1000,
        'both \\", \\\\", [' * 1000,
        "é😀\n\t, [" * 1000,
    ],
)
def test_of_texts_only_their_number_counts(text: str) -> None:
    many = orjson.dumps({"a": [text] * 5})
    assert few_values(many, 7)
    assert not few_values(many, 5)


def test_values_are_counted_wherever_they_are() -> None:
    assert few_values(b"[1, 2, 3]", 3)
    assert not few_values(b"[1, 2, 3]", 2)
    assert not few_values(b"[[], [], []]", 5)
    assert not few_values(b'{"a": {"b": {}}}', 2)
    assert not few_values(b'["", "", "", "", ""]', 2)


def test_a_conversation_of_the_greatest_length_has_few_values() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, 2]}'}}
    part = {"type": "text", "text": "Hello, [world]", "cache_control": {"type": "ephemeral"}}
    message = {"role": "assistant", "content": [part, part], "tool_calls": [call, call]}
    raw = orjson.dumps({"model": "mixllm", "messages": [message] * 2000})
    assert parse(raw)["messages"][-1] == message


def test_halves_of_surrogate_pairs_are_read_and_nan_is_not() -> None:
    assert parse(b'{"comment": "\\ud83d"}') == {"comment": "\ud83d"}
    assert parse(b"\xef\xbb\xbf{}") == {}
    with pytest.raises(ValueError, match="unexpected character"):
        parse(b'{"seconds": NaN}')
    with pytest.raises(UnicodeDecodeError):
        parse("{}".encode("utf-16"))


@pytest.mark.parametrize(("size", "apart"), [(1000, False), (LARGE_BYTES, True)])
def test_a_large_body_is_parsed_once_and_not_on_the_event_loop(
    size: int, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noting(raw: bytes) -> Any:
        threads.append(threading.current_thread())
        return parse(raw)

    async def receive() -> Any:
        return {"type": "http.request", "body": orjson.dumps("x" * size), "more_body": False}

    async def read() -> None:
        request = BodyRequest({"type": "http"}, receive)
        assert await request.json() is await request.json()

    monkeypatch.setattr(bodies, "parse", noting)
    asyncio.run(read())
    (thread,) = threads
    assert (thread is not threading.current_thread()) == apart


@pytest.mark.parametrize("path", [CHAT, "/v1/route", "/v1/feedback", "/v1/feedback/batch"])
@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"query=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"query": "x"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"query": "x"', "application/json", 422, "invalid_json"),
        (b"nonsense", "application/json", 422, "invalid_json"),
        (b'{"seconds": NaN}', "application/json", 422, "invalid_json"),
        (b"\xff{}", "application/json", 400, None),
        (b"[" * 300 + b"]" * 300, "application/json", 422, None),
        (b"[" * 100_000, "application/json", 422, "invalid_json"),
        (b"", "application/json", 422, "missing"),
    ],
)
def test_what_is_no_json_is_named(
    http: TestClient, path: str, body: bytes, kind: str, status: int, code: str | None
) -> None:
    response = post(http, path, body, kind)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), error
    if code == "invalid_json":
        assert "the body is not JSON" in error["message"]
        assert "at character" in error["message"]
