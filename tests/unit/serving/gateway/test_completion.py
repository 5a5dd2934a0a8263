from typing import Any

import pytest

from models.catalog import Candidate
from serving.gateway.completion import Job

ENTRY = Candidate(
    name="a", input_price=1.0, output_price=10.0, tokens_per_second=50.0, time_to_first_token=0.5
)


def job(llm: str | None = "a") -> Job:
    made = Job("id", ["a"], {}, False, {"a": ENTRY}, {"a": 7.0}, 29.4, {"fallback": None})
    made.llm = llm
    return made


def tokens(made: Job) -> tuple[int, int]:
    assert made.billed is not None
    return made.billed.usage.prompt_tokens, made.billed.usage.response_tokens


def said(text: Any, usage: Any = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}], "usage": usage}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": -1}])
def test_an_answer_without_sound_usage_is_estimated(usage: Any) -> None:
    made = job()
    made.read({"choices": [{"message": {"content": 5}}, "odd", {"delta": None}], "usage": usage})
    made.read(said("x" * 7))
    assert tokens(made) == (30, 2)
    told = made.extension(final=True)
    assert (told["usage"], told["cost_usd"]) == ("estimated", pytest.approx(50e-6))


def test_what_the_llm_counts_is_believed() -> None:
    made = job()
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    made.read({"choices": [{"message": {"content": "hello"}}], "usage": usage})
    assert tokens(made) == (100, 20)
    assert made.extension(final=True)["usage"] == "reported"
    assert job(llm=None).cost is None


@pytest.mark.parametrize("choices", [None, [], "odd", {"a": 1}])
def test_an_event_without_choices_has_usage_still(choices: Any) -> None:
    made = job()
    made.read(said("hello"))
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    made.read({"choices": choices, "usage": usage} if choices is not None else {"usage": usage})
    assert tokens(made) == (10, 5)


def test_of_usage_in_every_event_the_last_counts() -> None:
    made = job()
    for number, text in enumerate(("a", "b", "")):
        made.read(said(text, {"prompt_tokens": 10, "completion_tokens": number}))
    assert tokens(made) == (10, 2)
    assert made.extension(final=True)["usage"] == "reported"


def test_a_stream_that_is_cut_costs_what_came() -> None:
    made = job()
    made.read(said("", {"prompt_tokens": 10, "completion_tokens": 1}))
    made.read(said("x" * 400))
    assert tokens(made) == (10, 100)
    assert made.extension(final=True)["usage"] == "estimated"


def test_whatever_an_llm_is_paid_for_is_estimated() -> None:
    made = job()
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{...}"}}
    made.read({"choices": [{"message": {"content": None, "tool_calls": [call]}}]})
    made.read({"choices": [{"delta": {"reasoning": "y" * 40, "reasoning_content": "y" * 40}}]})
    made.read(said([{"type": "text", "text": "z" * 8}]))
    made.read(said("汉字"))  # three bytes each: about a token each
    names = len("functionnamearguments") + len("text")
    assert tokens(made)[1] == -(-(len("look{...}") + names + 40 + 8 + 6) // 4)
