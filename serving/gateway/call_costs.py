"""What a call to an LLM may cost, before its usage is known or where it never is."""

from __future__ import annotations

from typing import Any, Final

from models.billing import dearest_prices
from models.prices import token_cost
from serving.gateway.completion import Job

# Without a limit of the client's own: so many times the predicted length is held.
MARGIN: Final = 2.0
# Held where nothing is predicted of an answer's length.
UNKNOWN_TOKENS: Final = 1024


def dearest(job: Job, llm: str) -> float:
    """USD that an answer of an LLM may cost, as far as can be known before it is asked.

    The client's own limit on the answer's tokens is a bound; without one it is a multiple of the
    predicted length.
    """
    return _cost(job, llm, _most_response_tokens(job, llm))


def assumed(job: Job, llm: str) -> float:
    """USD that a call is counted at whose LLM may charge for it though no answer came: never more than
    was held, and no more than a multiple of the predicted length, whatever limit the client gave."""
    likely = _likely_response_tokens(job, llm)
    return _cost(job, llm, min(likely, _most_response_tokens(job, llm)))


def _cost(job: Job, llm: str, response: float) -> float:
    """USD at the dearest prices. response: tokens of one choice."""
    prompt = max(job.prompt_tokens, job.most_prompt_tokens)
    count = whole_number(job.body.get("n")) or 1
    input_price, output_price = dearest_prices(job.entries[llm])
    return token_cost(prompt, response * count, input_price, output_price)


def _likely_response_tokens(job: Job, llm: str) -> float:
    predicted = job.response_tokens.get(llm)
    return float(UNKNOWN_TOKENS) if predicted is None else MARGIN * predicted


def _most_response_tokens(job: Job, llm: str) -> float:
    limits = [whole_number(job.body.get(name)) for name in ("max_completion_tokens", "max_tokens")]
    given = [limit for limit in limits if limit is not None]
    response = float(max(given)) if given else _likely_response_tokens(job, llm)
    window = job.entries[llm].context_window
    return response if window is None else min(response, float(window))


def whole_number(value: Any) -> int | None:
    """A count as clients send it; None for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value > 0 else None
