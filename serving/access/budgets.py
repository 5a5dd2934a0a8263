"""What keys have spent this month, and what the requests under way may still spend.

A request's dearest cost is held before an LLM is asked, and settled for its true cost after. Within
one process no budget is passed by requests whose answers keep to what was held for them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from monitoring.store.answers import month_start
from monitoring.store.keys import ApiKey, dollars
from serving.refusals import Refused

QUOTA: Final = "insufficient_quota"


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
