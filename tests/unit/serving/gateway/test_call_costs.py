from typing import Any

import pytest

from models.catalog import Candidate
from models.queries.conversation import most_tokens
from serving.gateway.call_costs import assumed, dearest
from serving.gateway.completion import Job


def job(body: dict[str, Any], predicted: float | None = 100.0, **limits: Any) -> Job:
    entry = Candidate(
        name="a",
        input_price=1.0,
        output_price=10.0,
        tokens_per_second=50.0,
        time_to_first_token=0.5,
        **limits,
    )
    tokens = {} if predicted is None else {"a": predicted}
    return Job(
        "id", ["a"], body, False, {"a": entry}, tokens, 30.0, {},
        most_prompt_tokens=most_tokens(body),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 200),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 700}, 700),
        ({"max_tokens": 5, "max_completion_tokens": 700}, 700),
        ({"max_tokens": 5, "n": 3}, 15),
        ({"max_tokens": None, "n": None}, 200),
        ({"max_tokens": "5", "n": True}, 200),
        ({"max_tokens": -5, "n": 0}, 200),
        ({"max_tokens": 5.0}, 5),
        ({"max_tokens": float("inf")}, 200),
        ({"max_tokens": 10**30}, 10**30),
    ],
)
def test_the_dearest_cost_follows_the_clients_limit(body: dict[str, Any], tokens: int) -> None:
    assert dearest(job(body), "a") == pytest.approx((30 * 1.0 + tokens * 10.0) / 1e6)


@pytest.mark.parametrize(
    ("body", "predicted", "tokens"),
    [
        ({}, 100.0, 200),
        ({"max_tokens": 5}, 100.0, 5),
        ({"max_tokens": 10**6}, 100.0, 200),
        ({"max_tokens": 10**6, "n": 3}, 100.0, 600),
        ({"max_tokens": 10**6}, None, 1024),
    ],
)
def test_a_call_without_an_answer_is_counted_at_a_likely_one(
    body: dict[str, Any], predicted: float | None, tokens: int
) -> None:
    assert assumed(job(body, predicted), "a") == pytest.approx((30 + tokens * 10.0) / 1e6)


def test_the_dearest_cost_knows_the_window_and_the_whole_prompt() -> None:
    assert dearest(job({"max_tokens": 10**30}, context_window=1000), "a") == pytest.approx(0.01003)
    assert dearest(job({}, None), "a") == pytest.approx((30 + 10240) / 1e6)
    messages = [
        {"role": "system", "content": "ü" * 3000},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ]
    body = {"messages": messages, "max_tokens": 1}
    assert dearest(job(body), "a") > (2000 + 1500) / 1e6


@pytest.mark.parametrize(
    "body",
    [
        {"functions": [{"name": "f", "description": "x" * 30_000}]},
        {"response_format": {"type": "json_schema", "json_schema": {"description": "x" * 30_000}}},
        {"prediction": {"type": "content", "content": "x" * 30_000}},
        {"messages": [{"role": "assistant", "content": None, "reasoning_content": "x" * 30_000}]},
        {"messages": [{"role": "assistant", "function_call": {"arguments": "x" * 30_000}}]},
    ],
)
def test_what_an_llm_reads_beside_the_text_is_held_for(body: dict[str, Any]) -> None:
    assert dearest(job({**body, "max_tokens": 1}), "a") > 10_000 * 1.0 / 1e6
