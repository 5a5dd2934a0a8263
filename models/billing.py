"""What an answer cost, from the usage that its LLM reports; where it reports none, from its text.

Servers count alike and report differently. Prompt tokens read from a cache are part of
``prompt_tokens`` (OpenAI, DeepSeek) or beside them (Anthropic); reasoning is part of
``completion_tokens`` or beside them; ``total_tokens`` tells which. Counts may be absent, null,
fractions or text. What cannot be told is billed at the dearer reading: a budget must not be overrun
because a server counts in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from models.catalog import Candidate
from models.prices import token_cost

# No prompt and no answer has more; a larger count is a mistake.
MAX_TOKENS: Final = 100_000_000
# A cost that the server states is believed within this factor of what its tokens cost by the catalog.
COST_FACTOR: Final = 100.0
MAX_COST_USD: Final = 10_000.0
PROMPT_NAMES: Final = ("prompt_tokens", "input_tokens")
RESPONSE_NAMES: Final = ("completion_tokens", "output_tokens")
PROMPT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
RESPONSE_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")


@dataclass(frozen=True)
class Usage:
    """The tokens of one answer.

    prompt_tokens: all of the prompt's, those below included.
    cached_tokens: of the prompt, read from the server's cache.
    written_tokens: of the prompt, written to it.
    prompt_audio, prompt_images: of the prompt.
    response_tokens: all of the answer's, reasoning included.
    response_audio, response_images: of the answer.
    reported: whether the server counted; else the tokens are estimated from the text.
    stated_cost: USD, what the server says it charges; None where it says nothing.
    """

    prompt_tokens: int
    response_tokens: int
    cached_tokens: int = 0
    written_tokens: int = 0
    prompt_audio: int = 0
    prompt_images: int = 0
    response_audio: int = 0
    response_images: int = 0
    reported: bool = True
    stated_cost: float | None = None


@dataclass(frozen=True)
class Billed:
    """What one answer took. cost: USD. stated: whether that is the server's own figure."""

    usage: Usage
    cost: float
    stated: bool


def bill(entry: Candidate, usage: Usage) -> Billed:
    """The cost of an answer: what the server states if that is plausible, else by the catalog."""
    counted = cost_of(entry, usage)
    stated = usage.stated_cost
    if stated is not None and (
        counted == 0 or counted / COST_FACTOR <= stated <= counted * COST_FACTOR
    ):
        return Billed(usage, round(stated, 12), True)
    return Billed(usage, counted, False)


def cost_of(entry: Candidate, usage: Usage) -> float:
    """USD by the catalog's prices. A price that it does not name is that of plain text."""
    prompt, response = usage.prompt_tokens, usage.response_tokens
    usd = 0.0
    # Kinds with a price of their own are billed at it, in full: whether they were cached is not told.
    for count, price in (
        (usage.prompt_audio, entry.audio_input_price),
        (usage.prompt_images, entry.image_input_price),
    ):
        if price is not None:
            count = min(count, prompt)
            usd, prompt = usd + count * price, prompt - count
    for count, price in (
        (usage.response_audio, entry.audio_output_price),
        (usage.response_images, entry.image_output_price),
    ):
        if price is not None:
            count = min(count, response)
            usd, response = usd + count * price, response - count
    written = min(usage.written_tokens, prompt)
    cached = min(usage.cached_tokens, prompt - written)
    usd += written * _or(entry.cache_write_price, entry.input_price)
    usd += cached * _or(entry.cached_input_price, entry.input_price)
    plain = token_cost(prompt - written - cached, response, entry.input_price, entry.output_price)
    return round(usd / 1e6 + plain, 12)


def dearest_prices(entry: Candidate) -> tuple[float, float]:
    """USD per million tokens of a prompt and of an answer, at the dearest of their kinds."""
    prompt = (
        entry.input_price, entry.cache_write_price, entry.audio_input_price, entry.image_input_price,
    )  # fmt: skip
    response = (entry.output_price, entry.audio_output_price, entry.image_output_price)
    return max(price or 0.0 for price in prompt), max(price or 0.0 for price in response)


def read_usage(reported: Any, prompt: int, response: int) -> Usage:
    """What a server reports, made sense of.

    reported: the field ``usage`` of its answer, whatever it holds.
    prompt, response: tokens estimated from the text, for what it does not say.
    """
    usage: Mapping[str, Any] = reported if isinstance(reported, Mapping) else {}
    details, said = _details(usage, PROMPT_DETAILS), _details(usage, RESPONSE_DETAILS)
    cached = _most(
        (usage, "cache_read_input_tokens"), (usage, "prompt_cache_hit_tokens"),
        (usage, "cached_tokens"), (details, "cached_tokens"),
    )  # fmt: skip
    lifetimes = _details(usage, ("cache_creation",))
    written = _most(
        (usage, "cache_creation_input_tokens"), (details, "cache_creation_tokens"),
        (details, "cache_write_tokens"),
    ) or sum(count(value) or 0 for value in lifetimes.values())  # fmt: skip
    reasoning = _most((said, "reasoning_tokens"), (usage, "reasoning_tokens"))
    total = count(usage.get("total_tokens"))
    asked, answered = _first(usage, PROMPT_NAMES), _first(usage, RESPONSE_NAMES)
    if asked is not None:
        asked = _whole_prompt(usage, asked, answered, total, written)
    # No prompt is empty, and an answer with text has tokens: a 0 there means "not counted".
    asked = asked or None
    answered = None if answered == 0 and response > 0 and not reasoning else answered
    known = asked is not None and answered is not None
    if asked is None and answered is not None and total is not None and total > answered:
        asked, known = total - answered, True
    elif answered is None and asked is not None and total is not None and total >= asked:
        answered, known = total - asked, total > asked or response == 0
    elif asked is None and answered is None and total:
        asked = min(max(prompt, 1), total)
        answered = total - asked
    if asked is None:
        asked = max(prompt, cached + written)
    if answered is None or not (known or answered):
        answered = max(response, reasoning)
    if total is not None and total > asked + answered:
        answered = total - asked  # reasoning, counted beside the answer
    elif total is None and reasoning > answered:
        answered += reasoning
    return Usage(
        prompt_tokens=asked,
        response_tokens=answered,
        cached_tokens=min(cached, asked),
        written_tokens=min(written, asked),
        prompt_audio=_most((details, "audio_tokens")),
        prompt_images=_most((details, "image_tokens")),
        response_audio=_most((said, "audio_tokens")),
        response_images=_most((said, "image_tokens")),
        reported=known,
        stated_cost=stated_cost(usage),
    )


def merge_usage(before: Any, after: Any) -> dict[str, Any]:
    """The usage of a stream that reports it more than once: of every count the largest."""
    merged = dict(before) if isinstance(before, Mapping) else {}
    for name, value in (after if isinstance(after, Mapping) else {}).items():
        old, new = number(merged.get(name)), number(value)
        if isinstance(value, Mapping):
            merged[name] = merge_usage(merged.get(name), value)
        elif new is None:
            merged.setdefault(name, value)
        elif old is None or new >= old:
            merged[name] = value
    return merged


def stated_cost(usage: Mapping[str, Any]) -> float | None:
    """USD that a server says it charges (OpenRouter's ``cost``, Perplexity's ``cost.total_cost``).

    With a key of one's own at OpenRouter, its fee and the provider's bill together. None where it is
    not a positive number of plausible size.
    """
    stated = usage.get("cost")
    if isinstance(stated, Mapping):
        stated = stated.get("total_cost")
    usd = number(stated)
    upstream = number(_details(usage, ("cost_details",)).get("upstream_inference_cost"))
    if upstream is not None and upstream > 0:
        usd = (usd or 0.0) + upstream if usage.get("is_byok") is True else max(usd or 0.0, upstream)
    return usd if usd is not None and 0 < usd <= MAX_COST_USD else None


def number(value: Any) -> float | None:
    """A finite number, given as one or as its text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        parsed = float(value[:40] if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def count(value: Any) -> int | None:
    """A number of tokens, fractions rounded up; None for what cannot be one."""
    parsed = number(value)
    return math.ceil(parsed) if parsed is not None and 0 <= parsed <= MAX_TOKENS else None


def _whole_prompt(
    usage: Mapping[str, Any],
    asked: int,
    answered: int | None,
    total: int | None,
    written: int,
) -> int:
    """The prompt's tokens with those that Anthropic's form counts beside them."""
    beside = (count(usage.get("cache_read_input_tokens")) or 0) + written
    outside = (
        beside > asked
        or (answered is not None and total == asked + answered + beside)
        or not ({"prompt_tokens", "total_tokens"} & set(usage))  # Anthropic's own form
    )
    return asked + beside if outside else asked


def _details(usage: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, Mapping):
            return value
    return {}


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    counts = (count(usage.get(name)) for name in names)
    return next((found for found in counts if found is not None), None)


def _most(*places: tuple[Mapping[str, Any], str]) -> int:
    return max(count(where.get(name)) or 0 for where, name in places)


def _or(price: float | None, otherwise: float) -> float:
    return otherwise if price is None else price
