from typing import Any

import pytest

from models.catalog import Candidate
from serving.job import Job

ENTRY = Candidate(
    name="a", input_price=1.0, output_price=10.0, tokens_per_second=50.0, time_to_first_token=0.5
)


def job(llm: str | None = "a") -> Job:
    made = Job("id", ["a"], {}, False, {"a": ENTRY}, {"a": 7.0}, 30.4, {"fallback": None})
    made.llm = llm
    return made


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "3"}, {"prompt_tokens": -1}])
def test_an_answer_without_sound_usage_is_estimated(usage: Any) -> None:
    made = job()
    made.read({"choices": [{"message": {"content": 5}}, "odd", {"delta": None}], "usage": usage})
    made.read({"choices": [{"delta": {"content": "x" * 7}}]})
    assert made.tokens == (30, 2)
    told = made.extension(final=True)
    assert (told["usage"], told["cost_usd"]) == ("estimated", pytest.approx(50e-6))


def test_what_the_llm_counts_is_believed() -> None:
    made = job()
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    made.read({"choices": [{"message": {"content": "hello"}}], "usage": usage})
    assert made.tokens == (100, 20)
    assert made.extension(final=True)["usage"] == "reported"
    assert job(llm=None).cost is None
