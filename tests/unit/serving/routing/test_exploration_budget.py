"""The daily budget of exploration, whatever the clock does."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")


def test_a_clock_that_goes_back_gives_no_second_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.routing import exploration_budget as routing

    class Clock:
        at = datetime(2026, 3, 2, 12, tzinfo=UTC)

        @classmethod
        def now(cls, _: Any) -> datetime:
            return cls.at

    monkeypatch.setattr(routing, "datetime", Clock)
    budget = routing.ExplorationBudget(1.0)
    drawn: Any = SimpleNamespace(
        ranking=np.array([1.0, 0.0]),
        choice=1,
        llm="b",
        estimates=SimpleNamespace(cost=np.array([0.0, 2.0])),
    )
    budget.note(drawn)
    assert budget.spent
    Clock.at -= timedelta(days=1)
    assert budget.spent
    Clock.at += timedelta(days=1)
    assert budget.spent
    Clock.at += timedelta(days=1)
    assert not budget.spent
