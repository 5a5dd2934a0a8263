"""Every case of the shared files through the gateway, over HTTP on loopback, routed and pinned."""

import asyncio
import warnings
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.billing import cost_of, read_usage
from models.catalog import Candidate, Upstream
from upstreams import LIMITS, Outcome, ask, completion, raw_server, response, says, streamed

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's, of its own metrics
    from serving.gateway.errors import NobodyAnswered
    from serving.http.chat import failed

FOLDER = Path(__file__).parents[3] / "shared" / "cases"
NAMES = ("streams.json", "answers.json")
if not all((FOLDER / name).is_file() for name in NAMES):
    pytest.skip(f"there are no shared cases in {FOLDER}", allow_module_level=True)
STREAMS, ANSWERS = (
    {case["name"]: case for case in orjson.loads((FOLDER / name).read_bytes())} for name in NAMES
)
# What a client sees of each stream: the text, the choices' ends, the error's words, the usage.
SEEN: dict[str, tuple[str, list[str], str | None, tuple[int, int] | None]] = {
    "the usage event has choices: null": ("héllo", ["stop"], None, (10, 5)),
    "error: null in every event": ("ab", ["stop"], None, None),
    "a ping event and a null event between chunks": ("héllo", ["stop"], None, None),
    "comments and CRLF line ends": ("héllo", ["stop"], None, None),
    "an error inside a chunk that has choices": ("héllo", [], "provider disconnected", None),
    "usage in every chunk, growing": ("ab", ["stop"], None, (10, 2)),
    "[DONE] without a finish_reason": ("héllo", ["stop"], None, None),
}
# The status and words that a client gets of an LLM that it named itself.
REFUSED: dict[str, tuple[int, str]] = {
    "200 with an error body": (502, "upstream exploded"),
    "200 without a choice": (502, "no choices"),
    "400 of one LLM: context too long": (400, "maximum context length is 8192"),
    "400 in a flat shape": (400, "This model's maximum context length is 4096"),
}
# Tokens of the prompt, of those from a cache, and of the answer.
BILLED: dict[str, tuple[int, int, int]] = {
    "cached prompt tokens": (1000, 900, 100),
    "reasoning tokens outside completion tokens": (1000, 0, 600),
    "completion_tokens null": (1000, 0, 100),
}


def through(raw: bytes, stream: bool, routed: bool) -> Outcome:
    """What comes of an LLM that answers so, with another one behind it where the job is routed."""

    async def run() -> Outcome:
        choice = {"index": 0, "delta": {"content": "second"}, "finish_reason": "stop"}
        chunk = b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\ndata: [DONE]\n\n"
        good = streamed(chunk) if stream else response(completion("second"))
        async with raw_server(says(raw)) as first, raw_server(says(good)) as second:
            servers = {"first": first, "second": second} if routed else {"first": first}
            specs = {
                name: Upstream(base_url=f"{server.address}/v1", **LIMITS)
                for name, server in servers.items()
            }
            return await ask(specs, stream, stream_options={"include_usage": True})

    return asyncio.run(run())


def test_every_case_is_known() -> None:
    assert STREAMS.keys() <= SEEN.keys()
    assert ANSWERS.keys() <= REFUSED.keys() | BILLED.keys()


@pytest.mark.parametrize("routed", [True, False], ids=["routed", "pinned"])
@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str, routed: bool) -> None:
    outcome = through(streamed(STREAMS[name]["body"].encode()), True, routed)
    text, finish, error, usage = SEEN[name]
    assert outcome.error is None
    assert (outcome.text, outcome.finish) == (text, finish)
    if error is None:
        assert outcome.events[-1] == "[DONE]"
        assert outcome.status == "answered"
        assert outcome.failures["first"] == 0
    else:
        assert outcome.stream_error is not None
        assert error in outcome.stream_error["message"]
        assert outcome.status == "broken"
    if usage is not None:
        told = [e["usage"] for e in outcome.events if isinstance(e, dict) and e.get("usage")]
        assert (told[-1]["prompt_tokens"], told[-1]["completion_tokens"]) == usage


def sent(name: str) -> bytes:
    return response(ANSWERS[name]["body"], ANSWERS[name]["status"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name in REFUSED])
def test_no_answer_is_another_llms_turn(name: str, stream: bool) -> None:
    outcome = through(sent(name), stream, True)
    assert outcome.error is None
    assert outcome.text == "second"
    assert outcome.job is not None
    assert REFUSED[name][1] in str(outcome.job.attempts[0]["error"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name in REFUSED])
def test_of_a_pinned_llm_the_client_gets_status_and_words(name: str, stream: bool) -> None:
    outcome = through(sent(name), stream, False)
    assert isinstance(outcome.error, NobodyAnswered)
    told = failed(outcome.error, {}, pinned=True)
    status, words = REFUSED[name]
    error = orjson.loads(bytes(told.body))["error"]
    assert told.status_code == status
    assert words in error["message"]
    given: Any = ANSWERS[name]["body"].get("error") or {}
    if isinstance(given.get("code"), str):
        assert error["code"] == given["code"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("routed", [True, False], ids=["routed", "pinned"])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name in BILLED])
def test_bill(name: str, routed: bool, stream: bool) -> None:
    outcome = through(sent(name), stream, routed)
    assert outcome.text == "plain"
    assert outcome.job is not None
    assert outcome.job.billed is not None
    usage = outcome.job.billed.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.response_tokens) == BILLED[name]


def test_cached_tokens_cost_the_cached_price() -> None:
    entry = Candidate(
        name="first", input_price=1.0, output_price=10.0, cached_input_price=0.1,
        tokens_per_second=50.0, time_to_first_token=0.5,
    )  # fmt: skip
    usage = read_usage(ANSWERS["cached prompt tokens"]["body"]["usage"], 1, 1)
    assert cost_of(entry, usage) == pytest.approx((100 + 900 * 0.1 + 100 * 10) / 1e6)
