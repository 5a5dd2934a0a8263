from typing import Any

import orjson
import pytest

from serving.gateway.errors import class_of
from serving.gateway.redaction import Redactor
from serving.gateway.upstream_errors import read_error, read_error_body

NOBODY = Redactor()
SAID = "the context is too long"
SHAPES: dict[str, Any] = {
    "OpenAI": {"error": {"message": SAID, "type": "t", "param": "messages", "code": "c"}},
    "text": {"error": SAID},
    "flat": {"object": "error", "message": SAID, "type": "t", "param": None, "code": 400},
    "FastAPI": {"detail": SAID},
    "FastAPI in FastAPI": {"detail": {"error": {"message": SAID}}},
    "message": {"message": SAID},
    "Bedrock": {"Message": SAID, "__type": "ValidationException"},
    "list": {"errors": [{"code": 7003, "message": SAID}], "success": False},
    "list of texts": {"errors": [SAID]},
    "Anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": SAID}},
    "Google": {"error": {"code": 400, "message": SAID, "status": "INVALID_ARGUMENT",
                         "details": [{"reason": "X"}]}},
    "Google in a list": [{"error": {"code": 400, "message": SAID}}],
    "problem": {"type": "about:blank", "title": "Bad Request", "detail": SAID, "status": 400},
    "Apigee": {"fault": {"faultstring": SAID, "detail": {"errorcode": "x"}}},
    "true": {"error": True, "message": SAID},
    "msg": {"code": 400, "msg": SAID},
    "OpenRouter": {"error": {"message": "Provider returned error", "metadata": {"raw": SAID}}},
    "JSON text": SAID,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_words_are_kept_of_every_shape(shape: str) -> None:
    words = read_error_body(orjson.dumps(SHAPES[shape]), NOBODY)
    assert words.message is not None
    assert SAID in words.message
    assert len(words.message) < len(SAID) + 30


def test_codes_and_parameters_are_kept() -> None:
    words = read_error_body(orjson.dumps(SHAPES["OpenAI"]), NOBODY)
    assert (words.type, words.code, words.param) == ("t", "c", "messages")
    google = read_error_body(orjson.dumps(SHAPES["Google"]), NOBODY)
    assert (google.code, google.status) == ("INVALID_ARGUMENT", 400)
    assert (
        read_error_body(orjson.dumps(SHAPES["Anthropic"]), NOBODY).type == "invalid_request_error"
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"<html><head><title>502 Bad Gateway</title><style>x{}</style></head><body><h1>502 Bad Gateway"
         b"</h1>\n<script>y</script> nginx </body></html>", "502 Bad Gateway nginx"),
        (b"upstream connect error", "upstream connect error"),
        (b'data: {"error": {"message": "no"}}\n\n', "no"),
        (b'{"detail": [{"loc": ["body", "n"], "msg": "too large", "type": "x"}]}', "body.n: too large"),
        (b'{"error": "invalid_token", "error_description": "it is old"}', "invalid_token: it is old"),
        (b'{"strange": 1}', '{"strange":1}'),
        (b"", None),
        (b"\xff\xfe", "��"),
    ],
)  # fmt: skip
def test_other_bodies_have_words_too(raw: bytes, message: str | None) -> None:
    assert read_error_body(raw, NOBODY).message == message


@pytest.mark.parametrize(
    "parsed",
    [
        {"choices": [], "error": None},
        {"choices": [{"index": 0}], "error": {}},
        {"type": "ping"},
        {"status": "processing"},
        {"message": "warming up"},
        {"usage": {"prompt_tokens": 1}},
        None,
        3,
        [],
        [3],
        "x",
    ],
)
def test_what_is_no_error(parsed: Any) -> None:
    assert read_error(parsed, NOBODY) is None


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"message", "JSON text"}))
def test_an_error_is_seen_where_an_answer_should_be(shape: str) -> None:
    assert read_error(SHAPES[shape], NOBODY) is not None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "n must be 1"}}, "invalid"),
        (400, {"error": {"message": "Incorrect API key provided"}}, "refused"),
        (400, {"error": {"message": "API key not valid.", "status": "INVALID_ARGUMENT"}}, "refused"),
        (400, {"error": {"message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}, "refused"),
        (400, {"error": {"message": "The model `m` does not exist"}}, "refused"),
        (400, {"error": {"message": "x", "code": "model_not_found"}}, "refused"),
        (401, {}, "refused"),
        (402, {}, "refused"),
        (403, {"error": {"message": "denied"}}, "refused"),
        (403, {"error": {"message": "the input was flagged by moderation"}}, "invalid"),
        (404, {}, "refused"),
        (413, {}, "invalid"),
        (422, {"detail": "bad"}, "invalid"),
        (429, {}, "rate_limited"),
        (500, {"error": "context length exceeded"}, "invalid"),
        (500, {}, "server_error"),
        (503, {}, "server_error"),
        (529, {}, "server_error"),
        (408, {}, "server_error"),
        (302, {}, "refused"),
    ],
)  # fmt: skip
def test_whose_fault_it_is(status: int, body: Any, kind: str) -> None:
    assert class_of(status, read_error_body(orjson.dumps(body), NOBODY)).code == kind


def test_hostile_bodies_are_read_in_bounds() -> None:
    deep: Any = {"message": "deep"}
    for _ in range(100):
        deep = {"error": [deep]}
    for raw in (orjson.dumps(deep), b"[" * 60_000, b"<" * 60_000, b'{"error":' * 10_000):
        words = read_error_body(raw, NOBODY)
        assert len(words.message or "") <= 2000
