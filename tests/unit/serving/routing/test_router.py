"""The router: who is chosen, who is passed over, what is kept, and what happens when routing fails."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infra.settings import Settings
from models.decision.exploration import Exploration
from models.decision.waiting import WaitingTracker
from models.decision.wishes import Wishes
from models.errors import DecisionError
from models.release.release import Release
from serving.routing.request import RoutingRequest

pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")
QUERY = "Compute 12 * 13 + 4."


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


class Parts:
    """A router over a loaded release, without registry, policy, challenger or database."""

    def __init__(self, release: Release | None, home: Path, **settings: Any) -> None:
        from serving.routing.champion import Running
        from serving.routing.router import Deciders, Router

        running = Running(release, "1", "disk", time.time()) if release else None
        champion: Any = SimpleNamespace(running=running, disabled=frozenset(), spare_catalog=None)
        self.champion = champion
        self.offers: list[Any] = []
        challenger: Any = SimpleNamespace(
            canary_of=lambda key, session: None, asks=lambda: True, offer=self.offers.append
        )
        keys: Any = SimpleNamespace(exploration=lambda key: None)
        policy: Any = SimpleNamespace(of=lambda digest: None)
        self.kept: list[dict[str, Any]] = []
        self.router = Router(
            Settings(home=home, **settings),
            Deciders(champion, challenger, policy),
            keys,
            WaitingTracker(),
            self.kept.append,
        )


@pytest.fixture
def parts(release: Release, tmp_path: Path) -> Parts:
    return Parts(release, tmp_path)


def request(**fields: Any) -> RoutingRequest:
    return RoutingRequest(**{"query": QUERY, "wishes": Wishes(), **fields})


def test_the_choice_is_the_release_s_and_the_decision_is_kept(
    parts: Parts, release: Release
) -> None:
    routed, seconds = parts.router.decide(request(key_id="team"))
    assert routed.llm == release.route(QUERY).decision.llm
    assert sorted(routed.ranking) == sorted(release.candidates)
    assert (routed.propensity, routed.fallback, routed.release) == (1.0, None, "1")
    (row,) = parts.kept
    assert (row["id"], row["llm"], row["key_id"]) == (routed.decision_id, routed.llm, "team")
    assert 0 < seconds["encode"] < seconds["total"]
    (offered,) = parts.offers
    assert offered.decision_id == routed.decision_id


def test_the_unavailable_are_passed_over_unless_nobody_else_is_left(
    parts: Parts, release: Release
) -> None:
    first, second = parts.router.decide(request())[0].ranking[:2]
    spared, _ = parts.router.decide(request(unavailable=frozenset({first})))
    assert (spared.llm, first in spared.ranking) == (second, False)
    everyone = frozenset(release.candidates)
    assert parts.router.decide(request(unavailable=everyone))[0].llm == first


def test_the_disabled_and_those_without_an_upstream_get_nothing(
    parts: Parts, release: Release
) -> None:
    first, second, third = parts.router.decide(request())[0].ranking[:3]
    parts.champion.disabled = frozenset({first})
    reachable = frozenset(release.candidates) - {second}
    routed, _ = parts.router.decide(request(reachable=reachable))
    assert routed.llm == third
    assert not {first, second} & set(routed.ranking)
    with pytest.raises(DecisionError):
        parts.router.decide(request(wishes=Wishes(candidates=(first,))))


def test_a_conversation_stays_where_a_switch_costs_more_than_it_brings(
    parts: Parts, release: Release
) -> None:
    last = parts.router.decide(request())[0].ranking[-1]
    parts.router.sessions.note("team", "talk", last)
    dear = Wishes(switching_cost=100.0)
    assert parts.router.decide(request(wishes=dear, key_id="team", session="talk"))[0].llm == last
    assert parts.router.decide(request(wishes=dear, key_id="else", session="talk"))[0].llm != last
    assert parts.router.decide(request(key_id="team", session="talk"))[0].llm != last


def test_exploration_draws_with_the_probability_that_is_kept(parts: Parts) -> None:
    wishes = Wishes(exploration=Exploration(kind="epsilon", epsilon=0.5))
    routed = [parts.router.decide(request(wishes=wishes))[0] for _ in range(60)]
    best = parts.router.decide(request())[0].llm
    count = len(routed[0].ranking)
    for one in routed:
        share = 0.5 / count + (0.5 if one.llm == best else 0.0)
        assert one.propensity == pytest.approx(share)
    assert 1 < len({one.llm for one in routed}) <= count


def test_a_spent_budget_ends_exploration(release: Release, tmp_path: Path) -> None:
    parts = Parts(release, tmp_path, exploration_usd_per_day=0.0)
    wishes = Wishes(exploration=Exploration(kind="epsilon", epsilon=1.0))
    assert parts.router.budget.spent
    assert {parts.router.decide(request(wishes=wishes))[0].propensity for _ in range(5)} == {1.0}


def test_a_failure_of_routing_is_a_fallback_and_an_unfulfillable_wish_an_error(
    parts: Parts, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DecisionError, match="the best is"):
        parts.router.decide(request(wishes=Wishes(min_quality=1.0)))
    assert parts.kept == []

    def broken(*_: Any) -> np.ndarray:
        raise FloatingPointError("a bug")

    monkeypatch.setattr(release.compiled, "estimate", broken)
    routed, _ = parts.router.decide(request())
    assert routed.fallback == "routing failed: FloatingPointError"
    assert routed.llm == release.manifest.catalog.default
    assert parts.kept[0]["fallback"] == routed.fallback


def test_without_a_release_the_catalog_s_first_answers(release: Release, tmp_path: Path) -> None:
    from serving.routing.router import NotReady

    parts = Parts(None, tmp_path)
    with pytest.raises(NotReady):
        parts.router.decide(request())
    parts.champion.spare_catalog = release.manifest.catalog
    routed, _ = parts.router.decide(request())
    assert (routed.llm, routed.release) == (release.manifest.catalog.default, None)
    assert routed.fallback == "no release is loaded"
