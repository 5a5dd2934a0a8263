"""What keys have spent this month, and what the requests under way may still spend.

A request's dearest cost is held before an LLM is asked, and settled for its true cost after. Within
one process no budget is passed by requests whose answers keep to what was held for them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from models.billing import dearest_prices
from monitoring.answers import month_start
from monitoring.keys import ApiKey, dollars
from serving.job import Job
from serving.refusals import Refused

QUOTA: Final = "insufficient_quota"
# Without a limit of the client's own: so many times the predicted length is held.
MARGIN: Final = 2.0
# Held where nothing is predicted of an answer's length.
UNKNOWN_TOKENS: Final = 1024


class Budgets:
    """Each key's account for the month. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._month = month_start()
        self._spent: dict[str, float] = {}
        self._held: dict[str, dict[str, float]] = {}
        self._known = False

    @property
    def month(self) -> datetime:
        with self._lock:
            return self._month

    def spent(self, key_id: str) -> float:
        """USD this month."""
        with self._lock:
            self._turn_month()
            return self._spent.get(key_id, 0.0)

    def snapshot(self) -> tuple[datetime, dict[str, float]] | None:
        """The month and what was spent in it; None while that is unknown."""
        with self._lock:
            self._turn_month()
            return (self._month, dict(self._spent)) if self._known else None

    def learn(self, month: datetime, spent: Mapping[str, float]) -> None:
        """Take what a store says was spent in a month. What this process counted may not be written
        yet, so the larger figure counts."""
        with self._lock:
            self._turn_month()
            if month != self._month:
                return
            for key_id, usd in spent.items():
                self._spent[key_id] = max(usd, self._spent.get(key_id, 0.0))
            self._known = True

    def check(self, key: ApiKey) -> None:
        """Raises Refused where a key's budget is used up."""
        self._hold(key, None, 0.0)

    def hold(self, key: ApiKey, holder: str, usd: float) -> None:
        """Set an amount aside for a request, in place of what it held before. Raises Refused."""
        self._hold(key, holder, usd)

    def _hold(self, key: ApiKey, holder: str | None, usd: float) -> None:
        budget = key.monthly_budget_usd
        if budget is None:
            return
        with self._lock:
            self._turn_month()
            if not self._known:
                message = (
                    f"what key {key.name!r} has spent cannot be read: Postgres does not answer"
                )
                raise Refused(503, message, retry_after=5)
            spent = self._spent.get(key.id, 0.0)
            under_way = sum(v for k, v in self._held.get(key.id, {}).items() if k != holder)
            if spent >= budget or spent + under_way + usd > budget:
                # Waiting helps only while others may give back what they hold.
                retry = 1 if under_way and spent + usd <= budget and spent < budget else None
                raise Refused(429, refusal(key, spent, under_way, usd), retry, QUOTA)
            if holder is not None:
                self._held.setdefault(key.id, {})[holder] = usd

    def settle(self, key_id: str | None, holder: str, usd: float | None) -> None:
        """Give back what a request held, and count what it cost; Postgres has it later."""
        if key_id is None:
            return
        with self._lock:
            self._turn_month()
            held = self._held.get(key_id, {})
            held.pop(holder, None)
            if not held:
                self._held.pop(key_id, None)
            if usd:
                self._spent[key_id] = self._spent.get(key_id, 0.0) + usd

    def _turn_month(self) -> None:
        # Forward only: a clock that is set back must not forget what was spent.
        now = month_start()
        if now > self._month:
            self._month, self._spent = now, {}


def refusal(key: ApiKey, spent: float, under_way: float, usd: float) -> str:
    """Why a request is not paid for."""
    budget = key.monthly_budget_usd or 0.0
    message = f"key {key.name!r} has spent {dollars(spent)} of its {dollars(budget)} this month"
    if under_way:
        message += f"; {dollars(under_way)} is held for requests under way"
    if usd:
        message += f"; this request may cost {dollars(usd)}"
    return message


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
    return (input_price * prompt + output_price * response * count) / 1e6


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
