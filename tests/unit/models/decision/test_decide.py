from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.decision.decide import DecisionContext, decide
from models.decision.estimates import DecisionDefaults, Estimates, score
from models.decision.explain import explain
from models.decision.exploration import Exploration
from models.decision.wishes import Wishes
from models.errors import DecisionError

NAMES = ["small", "middle", "large"]


def estimates(
    quality: tuple[float, ...] = (0.5, 0.7, 0.9),
    cost: tuple[float, ...] = (0.001, 0.004, 0.02),
    time: tuple[float, ...] = (1.0, 2.0, 3.0),
) -> Estimates:
    row = {"quality": quality, "cost": cost, "time": time, "uncertainty": (0.1, 0.2, 0.3)}
    row |= {"prompt_tokens": (10.0,) * 3, "response_tokens": (20.0,) * 3}
    row |= {"feedback": (0.0,) * 3}
    return Estimates(**{name: np.array([values]) for name, values in row.items()})


def test_the_score_is_the_formula() -> None:
    defaults = DecisionDefaults(willingness_to_pay=0.01, alpha=0.5, beta=0.2, gamma=0.3)
    terms = score(estimates(time=(1.0, 26.0, 60.0)), defaults)
    late = 0.2 * np.exp(0.3 * (26.0 - 0.6 * 30.0))
    assert terms.total[0, 1] == pytest.approx(0.7 - 0.004 / 0.01 + 0.5 * 0.2 - late)
    assert terms.latency[0, 2] < terms.latency[0, 1] < terms.latency[0, 0] < 0


def test_a_very_late_candidate_has_a_finite_score() -> None:
    terms = score(estimates(time=(1.0, 1e9, 1e300)), DecisionDefaults(willingness_to_pay=1.0))
    assert np.isfinite(terms.total).all()


@pytest.mark.parametrize(
    ("wtp", "choice"), [(1e-6, "small"), (0.02, "middle"), (1.0, "large"), (1e6, "large")]
)
def test_willingness_to_pay_buys_quality(wtp: float, choice: str) -> None:
    defaults = DecisionDefaults(willingness_to_pay=0.01)
    decision = decide(NAMES, estimates(), defaults, DecisionContext(Wishes(willingness_to_pay=wtp)))
    assert decision.llm == choice
    assert decision.propensity == 1.0
    assert decision.willingness_to_pay == wtp


def test_a_drawn_choice_carries_its_probability() -> None:
    defaults = DecisionDefaults(willingness_to_pay=1.0)
    wishes = Wishes(exploration=Exploration(kind="epsilon", epsilon=0.3))
    drawn = [
        decide(NAMES, estimates(), defaults, DecisionContext(wishes, number=n))
        for n in (0.05, 0.15, 0.9)
    ]
    assert [d.llm for d in drawn] == NAMES
    assert [d.propensity for d in drawn] == pytest.approx([0.1, 0.1, 0.8])
    assert sum(row["probability"] for row in explain(drawn[0])["scores"]) == pytest.approx(1.0)
    least = Wishes(min_quality=0.4, exploration=Exploration(kind="softmax"))
    assert decide(NAMES, estimates(), defaults, DecisionContext(least, number=0.99)).llm == "small"


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.floats(1e-6, 0.1), min_size=3, max_size=3),
    st.floats(1e-5, 10),
)
def test_what_would_change_it_does_change_it(
    quality: list[float], cost: list[float], wtp: float
) -> None:
    defaults = DecisionDefaults(willingness_to_pay=wtp)
    given_ = estimates(tuple(quality), tuple(cost))
    decision = decide(NAMES, given_, defaults)
    for key, beyond in (("cheaper_below", 0.999), ("dearer_above", 1.001)):
        switch = explain(decision)["would_change"][key]
        if switch is None or not 1e-9 < switch["willingness_to_pay"] < 1e9:
            continue
        other = decide(
            NAMES,
            given_,
            defaults,
            DecisionContext(Wishes(willingness_to_pay=switch["willingness_to_pay"] * beyond)),
        )
        assert other.llm != decision.llm or np.isclose(
            other.terms.total.max(), np.sort(other.terms.total)[-2], atol=1e-6
        )


def test_the_explanation_names_the_second_and_the_margin() -> None:
    told = explain(decide(NAMES, estimates(), DecisionDefaults(willingness_to_pay=0.02)))
    assert [row["llm"] for row in told["scores"]] == ["middle", "small", "large"]
    assert told["runner_up"] == "small"
    assert told["margin"] == pytest.approx(told["scores"][0]["score"] - told["scores"][1]["score"])
    assert sum(told["scores"][0]["terms"].values()) == pytest.approx(told["scores"][0]["score"])
    assert "next small: -0.20 quality, 75% cheaper" in told["why"]


def test_only_the_allowed_are_chosen() -> None:
    defaults = DecisionDefaults(willingness_to_pay=1.0)
    decision = decide(
        NAMES, estimates(), defaults, DecisionContext(allowed=np.array([True, False, False]))
    )
    assert decision.llm == "small"
    assert explain(decision)["runner_up"] is None
    with pytest.raises(DecisionError, match="no candidate is left"):
        decide(NAMES, estimates(), defaults, DecisionContext(allowed=np.zeros(3, dtype=bool)))


def test_a_score_that_is_not_a_number_is_never_chosen() -> None:
    defaults = DecisionDefaults(willingness_to_pay=1.0)
    assert decide(NAMES, estimates((0.5, 0.7, np.nan)), defaults).llm == "middle"
    with pytest.raises(DecisionError, match="finite"):
        decide(NAMES, estimates((np.nan,) * 3), defaults)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_willingness_to_pay_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        DecisionDefaults(willingness_to_pay=value)


@pytest.mark.parametrize(
    ("wishes", "choice"),
    [
        ({"min_quality": 0.6}, "middle"),
        ({"min_quality": 0.0}, "small"),
        ({"min_quality": 0.9}, "large"),
        ({"max_cost": 0.005, "willingness_to_pay": 10.0}, "middle"),
        ({"max_cost": 0.005, "min_quality": 0.4}, "small"),
    ],
)
def test_wishes_are_granted(wishes: dict[str, Any], choice: str) -> None:
    defaults = DecisionDefaults(willingness_to_pay=0.01)
    decision = decide(NAMES, estimates(), defaults, DecisionContext(Wishes(**wishes)))
    assert decision.llm == choice
    assert explain(decision)["scores"][0]["llm"] == choice


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            {"min_quality": 0.95},
            "no candidate is predicted to reach quality 0.95; the best is large",
        ),
        ({"max_cost": 1e-5}, "cost at most .*; the cheapest is small with"),
        ({"max_cost": 0.002, "min_quality": 0.6}, "the best is small with 0.50"),
    ],
)
def test_wishes_that_nobody_grants_say_how_near_the_nearest_is(
    wishes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DecisionError, match=message):
        decide(
            NAMES,
            estimates(),
            DecisionDefaults(willingness_to_pay=0.01),
            DecisionContext(Wishes(**wishes)),
        )


@pytest.mark.parametrize(
    "wishes",
    [{"min_quality": 1.1}, {"min_quality": 0.5, "willingness_to_pay": 1.0}, {"max_cost": 0.0}],
)
def test_wishes_that_make_no_sense_are_refused(wishes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wishes(**wishes)


def test_a_choice_by_least_cost_is_explained_as_one() -> None:
    told = explain(
        decide(
            NAMES,
            estimates(),
            DecisionDefaults(willingness_to_pay=10.0),
            DecisionContext(Wishes(min_quality=0.6)),
        )
    )
    assert [row["llm"] for row in told["scores"]] == ["middle", "large"]
    assert told["runner_up"] == "large"
    assert told["would_change"] == {"cheaper_below": None, "dearer_above": None}
