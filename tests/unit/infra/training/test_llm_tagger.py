"""The LLM tagger against a real HTTP server on loopback that speaks the OpenAI protocol."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.training.llm_tagger import ChatModel, LLMTagger, TokenPrices
from models.errors import TaggingError


class Endpoint(ThreadingHTTPServer):
    """failures: statuses to answer with before it works. at_once: most requests seen together."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures: list[int] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.now = self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.add(self.headers["authorization"])
            self.server.now += 1
            self.server.at_once = max(self.server.at_once, self.server.now)
            failure = self.server.failures.pop(0) if self.server.failures else None
        time.sleep(0.03)
        query = body["messages"][-1]["content"]
        written = "garbage" if query == "bad" else json.dumps([{"tag": f"about {query}"}])
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": written},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
        data = json.dumps({"error": "busy"} if failure else answer).encode()
        self.send_response(failure or 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with self.server.lock:
            self.server.now -= 1
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


PRICES = TokenPrices(input=1.0, output=10.0)


def tagger(endpoint: Endpoint, prices: TokenPrices | None = PRICES, **given: Any) -> LLMTagger:
    return LLMTagger(ChatModel(endpoint.url, "some-model", "secret", **given), prices)


def test_queries_are_tagged_side_by_side_within_the_limit(endpoint: Endpoint) -> None:
    made = tagger(endpoint, concurrency=3)
    queries = [f"q{i}" for i in range(12)]
    done: list[int] = []
    assert made.tag(queries, done.append) == [(f"about {query}",) for query in queries]
    assert sum(done) == 12
    assert 1 < endpoint.at_once <= 3
    assert endpoint.keys == {"Bearer secret"}
    assert endpoint.asked[0]["temperature"] == 0


def test_cost_is_told_before_and_after(endpoint: Endpoint) -> None:
    made = tagger(endpoint)
    expected = made.estimate(["a" * 400, "b"])
    assert expected.queries == 2
    assert expected.usd is not None
    assert expected.usd > 0
    assert endpoint.asked == [], "an estimate asks nobody"
    made.tag(["a", "b"])
    assert made.spent.prompt_tokens == 200
    assert made.spent.usd == pytest.approx((200 * 1.0 + 20 * 10.0) / 1e6)
    assert "no price set" in str(tagger(endpoint, prices=None).estimate(["a"]))


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.failures = [429, 500]
    assert tagger(endpoint).tag(["a"]) == [("about a",)]
    assert len(endpoint.asked) == 3


def test_what_cannot_be_read_is_no_tag(endpoint: Endpoint) -> None:
    assert tagger(endpoint).tag(["bad", "good"]) == [(), ("about good",)]


def test_an_endpoint_that_stays_down_is_one_clear_error(endpoint: Endpoint) -> None:
    endpoint.failures = [500] * 100
    with pytest.raises(TaggingError, match=r"some-model at http.*failed after 1 retries"):
        tagger(endpoint, retries=1).tag(["a", "b"])


def test_a_key_is_in_no_digest(endpoint: Endpoint) -> None:
    other = ChatModel(endpoint.url, "some-model", "other")
    assert tagger(endpoint).digest == LLMTagger(other).digest
