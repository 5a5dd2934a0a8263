from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from monitoring.store.answers import month_start
from monitoring.store.keys import ApiKey, dollars, hash_key
from serving.access import budgets
from serving.access.budgets import Budgets
from serving.refusals import Refused


def key(budget: float | None) -> ApiKey:
    return ApiKey("k", "app", hash_key("secret"), ("route",), monthly_budget_usd=budget)


def account(spent: float = 0.0) -> Budgets:
    made = Budgets()
    made.learn(month_start(), {"k": spent})
    return made


def refused(made: Budgets, holder: str, usd: float, budget: float = 1.0) -> Refused:
    with pytest.raises(Refused) as caught:
        made.hold(key(budget), holder, usd)
    return caught.value


def test_requests_at_once_hold_no_more_than_the_budget() -> None:
    made = account()

    def one(number: int) -> bool:
        try:
            made.hold(key(1.0), str(number), 0.125)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(30) as pool:
        assert sum(pool.map(one, range(300))) == 8
    for number in range(300):
        made.settle("k", str(number), None)
    assert made.spent("k") == 0.0, "what failed costs nothing"
    made.hold(key(1.0), "next", 1.0)


def test_what_was_held_is_settled_for_the_true_cost() -> None:
    made = account()
    made.hold(key(1.0), "a", 0.75)
    error = refused(made, "b", 0.5)
    assert (error.status, error.code, error.retry_after) == (429, "insufficient_quota", 1)
    assert "$0.75 is held for requests under way; this request may cost $0.50" in str(error)
    made.settle("k", "a", 0.25)
    made.hold(key(1.0), "b", 0.5)
    made.settle("k", "b", 0.5)
    assert made.spent("k") == 0.75
    error = refused(made, "c", 0.5)
    assert error.retry_after is None, "waiting gives nothing back"


def test_another_llm_is_held_for_in_place_of_the_first() -> None:
    made = account()
    made.hold(key(1.0), "a", 0.75)
    made.hold(key(1.0), "a", 1.0)
    refused(made, "b", 0.01)
    made.hold(key(1.0), "a", 0.5)
    made.hold(key(1.0), "b", 0.5)


def test_a_budget_that_is_used_up_pays_for_nothing() -> None:
    made = account(1.0)
    assert "has spent $1.00 of its $1.00 this month" in str(refused(made, "a", 0.0))
    assert refused(account(), "a", 0.0, budget=0.0).status == 429
    with pytest.raises(Refused):
        made.check(key(1.0))
    made.hold(key(None), "a", 1e9)


def test_spending_that_is_unknown_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        Budgets().check(key(1.0))
    assert caught.value.status == 503
    Budgets().check(key(None))


def test_the_larger_figure_counts() -> None:
    made = account()
    made.settle("k", "a", 0.5)
    made.learn(month_start(), {"k": 0.25})
    assert made.spent("k") == 0.5
    made.learn(month_start(), {"k": 0.75})
    assert made.spent("k") == 0.75


def test_a_month_turns_forward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    month = datetime(2026, 5, 1, tzinfo=UTC)
    monkeypatch.setattr(budgets, "month_start", lambda: month)
    made = Budgets()
    made.learn(month, {"k": 1.0})
    made.hold(key(2.0), "across", 1.0)
    month = datetime(2026, 6, 1, tzinfo=UTC)
    made.learn(datetime(2026, 5, 1, tzinfo=UTC), {"k": 5.0})
    assert made.spent("k") == 0.0, "last month's sum, read late, is not this month's"
    refused(made, "b", 1.5, budget=2.0)
    made.settle("k", "across", 0.5)
    assert made.spent("k") == 0.5
    month = datetime(2026, 5, 1, tzinfo=UTC)
    assert made.spent("k") == 0.5, "a clock set back forgets nothing"


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.05, "$0.05"), (0.0, "$0.00"), (50, "$50.00"), (1e-7, "$0.0000001"),
        (0.1 + 0.2, "$0.30"), (1234567.0, "$1234570.00"), (0.00123, "$0.00123"), (2.5, "$2.50"),
    ],
)  # fmt: skip
def test_amounts_are_in_plain_digits(usd: float, shown: str) -> None:
    assert dollars(usd) == shown
