"""What answers cost, in the forms that servers report their usage in."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.billing import bill, merge_usage, read_usage
from models.catalog import Candidate

CASES = Path(__file__).parents[4] / "shared" / "cases" / "answers.json"
ENTRY = Candidate(
    name="a",
    input_price=10.0,
    output_price=100.0,
    cached_input_price=1.0,
    cache_write_price=12.5,
    tokens_per_second=50.0,
    time_to_first_token=0.5,
)
PLAIN = ENTRY.model_copy(update={"cached_input_price": None, "cache_write_price": None})
# Estimated from the text, where nothing is reported.
PROMPT, RESPONSE = 40, 9


def details(**counts: Any) -> dict[str, Any]:
    return {"prompt_tokens_details": counts}


def reasoning(count: Any) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": count}}


def openai(prompt: Any, response: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": response, **more}
    return usage if total is None else {**usage, "total_tokens": total}


# usage, (prompt, response, cached, written), whether it counts as reported
TABLE: list[tuple[Any, tuple[int, int, int, int], bool]] = [
    (openai(1000, 100, 1100), (1000, 100, 0, 0), True),
    (openai(1000, 100), (1000, 100, 0, 0), True),
    # Read from a cache, in the forms of OpenAI, DeepSeek, LiteLLM and Anthropic.
    (openai(1000, 100, 1100, **details(cached_tokens=900)), (1000, 100, 900, 0), True),
    (openai(1000, 100, prompt_cache_hit_tokens=900), (1000, 100, 900, 0), True),
    (openai(1000, 100, 1100, cache_read_input_tokens=900), (1000, 100, 900, 0), True),
    (openai(100, 100, cache_read_input_tokens=900), (1000, 100, 900, 0), True),
    (openai(950, 100, 1950, cache_read_input_tokens=900), (1850, 100, 900, 0), True),
    (
        {"input_tokens": 10, "cache_read_input_tokens": 900, "output_tokens": 100},
        (910, 100, 900, 0), True,
    ),
    (
        {"input_tokens": 100, "output_tokens": 9, "total_tokens": 109,
         "input_tokens_details": {"cached_tokens": 64}},
        (100, 9, 64, 0), True,
    ),
    # Written to a cache.
    (openai(1000, 100, 1100, cache_creation_input_tokens=300), (1000, 100, 0, 300), True),
    (openai(1000, 100, 1100, **details(cache_write_tokens=300)), (1000, 100, 0, 300), True),
    (
        {"input_tokens": 10, "output_tokens": 5,
         "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 60}},
        (100, 5, 0, 90), True,
    ),
    # More than there is.
    (openai(1000, 100, 1100, **details(cached_tokens=5000)), (1000, 100, 1000, 0), True),
    (openai(1000, 100, 1100, **details(cached_tokens=-5)), (1000, 100, 0, 0), True),
    (openai(1000, 100, 1100, prompt_tokens_details=None), (1000, 100, 0, 0), True),
    (openai(1000, 100, 1100, prompt_tokens_details=[900]), (1000, 100, 0, 0), True),
    # Reasoning inside, outside, and told by the total alone.
    (openai(1000, 600, 1600, **reasoning(500)), (1000, 600, 0, 0), True),
    (openai(1000, 100, 1600, **reasoning(500)), (1000, 600, 0, 0), True),
    (openai(1000, 100, **reasoning(500)), (1000, 600, 0, 0), True),
    (openai(1000, 600, **reasoning(500)), (1000, 600, 0, 0), True),
    (openai(1000, 100, 1600), (1000, 600, 0, 0), True),
    (openai(1000, 0, 1500, **reasoning(500)), (1000, 500, 0, 0), True),
    # Counts that are none, or of an odd form.
    (openai(1000, None, 1100), (1000, 100, 0, 0), True),
    (openai(None, 100, 1100), (1000, 100, 0, 0), True),
    (openai(1000, None), (1000, RESPONSE, 0, 0), False),
    (openai(None, 100), (PROMPT, 100, 0, 0), False),
    (openai(None, None, 1100), (PROMPT, 1100 - PROMPT, 0, 0), False),
    (openai(None, None, None), (PROMPT, RESPONSE, 0, 0), False),
    (openai(999.2, 99.5), (1000, 100, 0, 0), True),
    (openai("1000", "100", "1100"), (1000, 100, 0, 0), True),
    (openai("many", 100, 1100), (1000, 100, 0, 0), True),
    (openai(-1, 100, 1100), (1000, 100, 0, 0), True),
    (openai(1000, -1, -1), (1000, RESPONSE, 0, 0), False),
    (openai(10**30, 100, 1100), (1000, 100, 0, 0), True),
    (openai(float("nan"), float("inf")), (PROMPT, RESPONSE, 0, 0), False),
    (openai(True, False), (PROMPT, RESPONSE, 0, 0), False),
    (openai([1], {"a": 2}), (PROMPT, RESPONSE, 0, 0), False),
    (openai(0, 0, 0), (PROMPT, RESPONSE, 0, 0), False),
    (openai(1000, 0, 1000), (1000, RESPONSE, 0, 0), False),
    (openai(1000, 100, 7), (1000, 100, 0, 0), True),
    (None, (PROMPT, RESPONSE, 0, 0), False),
    ({}, (PROMPT, RESPONSE, 0, 0), False),
    ([], (PROMPT, RESPONSE, 0, 0), False),
    ("1000", (PROMPT, RESPONSE, 0, 0), False),
]  # fmt: skip


@pytest.mark.parametrize(("usage", "tokens", "reported"), TABLE)
def test_usage_is_read_in_every_form(
    usage: Any, tokens: tuple[int, int, int, int], reported: bool
) -> None:
    read = read_usage(usage, PROMPT, RESPONSE)
    got = (read.prompt_tokens, read.response_tokens, read.cached_tokens, read.written_tokens)
    assert got == tokens
    assert read.reported is reported


@pytest.mark.parametrize(("usage", "tokens", "_reported"), TABLE)
def test_cached_tokens_have_their_price_and_without_one_the_full_price(
    usage: Any, tokens: tuple[int, int, int, int], _reported: bool
) -> None:
    prompt, response, cached, written = tokens
    read = read_usage(usage, PROMPT, RESPONSE)
    plain = prompt - cached - written
    usd = (10 * plain + 1 * cached + 12.5 * written + 100 * response) / 1e6
    assert bill(ENTRY, read).cost == pytest.approx(usd)
    assert bill(PLAIN, read).cost == pytest.approx((10 * prompt + 100 * response) / 1e6)


@pytest.mark.parametrize(
    ("name", "tokens", "usd"),
    [
        ("cached prompt tokens", (1000, 100), (100 * 10 + 900 * 1 + 100 * 100) / 1e6),
        ("reasoning tokens outside completion tokens", (1000, 600), 0.07),
        ("completion_tokens null", (1000, 100), 0.02),
    ],
)
def test_the_shared_cases(name: str, tokens: tuple[int, int], usd: float) -> None:
    if not CASES.is_file():
        pytest.skip("the shared cases are not on this machine")
    case = next(case for case in json.loads(CASES.read_text()) if case["name"] == name)
    read = read_usage(case["body"]["usage"], PROMPT, RESPONSE)
    assert (read.prompt_tokens, read.response_tokens) == tokens
    assert bill(ENTRY, read).cost == pytest.approx(usd)


def test_sound_and_images_have_prices_of_their_own_or_that_of_text() -> None:
    usage = openai(
        1000, 100, 1100, **details(audio_tokens=400, image_tokens=200, cached_tokens=900)
    )
    usage["completion_tokens_details"] = {"audio_tokens": 60}
    read = read_usage(usage, PROMPT, RESPONSE)
    assert bill(PLAIN, read).cost == pytest.approx((10 * 1000 + 100 * 100) / 1e6)
    prices = {"audio_input_price": 40.0, "image_input_price": 20.0, "audio_output_price": 200.0}
    dear = bill(ENTRY.model_copy(update=prices), read).cost
    assert dear == pytest.approx((40 * 400 + 20 * 200 + 1 * 400 + 200 * 60 + 100 * 40) / 1e6)
    too_many = read_usage(openai(10, 5, **details(audio_tokens=10**6)), PROMPT, RESPONSE)
    costly = bill(ENTRY.model_copy(update=prices), too_many).cost
    assert costly == pytest.approx((40 * 10 + 100 * 5) / 1e6)


@pytest.mark.parametrize(
    ("more", "usd"),
    [
        ({"cost": 0.015}, 0.015),
        ({"cost": "0.015"}, 0.015),
        ({"cost": {"total_cost": 0.03}}, 0.03),
        (
            {"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}},
            0.021,
        ),
        ({"cost": 0.001, "cost_details": {"upstream_inference_cost": 0.02}}, 0.02),
        ({"cost": 0.015, "cost_details": {"upstream_inference_cost": None}}, 0.015),
        # Not believed: nothing, nonsense, and what its tokens cannot have cost.
        ({"cost": 0}, 0.02),
        ({"cost": -1.0}, 0.02),
        ({"cost": None}, 0.02),
        ({"cost": True}, 0.02),
        ({"cost": float("nan")}, 0.02),
        ({"cost": float("inf")}, 0.02),
        ({"cost": "free"}, 0.02),
        ({"cost": 1e-9}, 0.02),
        ({"cost": 2000.0}, 0.02),
        ({"cost": 1e300}, 0.02),
    ],
)
def test_the_servers_own_figure_is_taken_where_it_is_plausible(
    more: dict[str, Any], usd: float
) -> None:
    billed = bill(ENTRY, read_usage(openai(1000, 100, 1100, **more), PROMPT, RESPONSE))
    assert billed.cost == pytest.approx(usd)
    assert billed.stated is (usd != 0.02 or "cost_details" in more)


def test_a_free_entry_believes_what_is_charged() -> None:
    free = ENTRY.model_copy(update={"input_price": 0.0, "output_price": 0.0})
    assert bill(free, read_usage(openai(10, 5, cost=0.5), 0, 0)).cost == 0.5
    assert bill(free, read_usage(openai(10, 5), 0, 0)).cost == 0.0


def test_usage_that_comes_more_than_once_counts_by_its_largest() -> None:
    merged: Any = None
    for part in [
        openai(10, 0),
        openai(10, 1, **details(cached_tokens=4)),
        None,
        {"prompt_tokens": None, "completion_tokens": 7, "prompt_tokens_details": None},
        openai(0, 3),
    ]:
        merged = merge_usage(merged, part)
    read = read_usage(merged, PROMPT, RESPONSE)
    assert (read.prompt_tokens, read.response_tokens, read.cached_tokens) == (10, 7, 4)
