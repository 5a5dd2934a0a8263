from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.decision.exploration import Exploration, draw, probabilities

SCORES = np.array([0.2, 0.8, 0.5, -np.inf])
COST = np.array([1.0, 2.0, 8.0, 1.0])


def explore(**told: Any) -> Exploration:
    return Exploration(**told)


@pytest.mark.parametrize("off", [None, explore(kind="off")])
def test_without_exploration_the_best_is_chosen(off: Exploration | None) -> None:
    assert probabilities(SCORES, COST, off).tolist() == [0, 1, 0, 0]


def test_epsilon_draws_those_with_few_votes_more_often() -> None:
    found = probabilities(
        SCORES, COST, explore(kind="epsilon", epsilon=0.1), np.array([0.0, 99.0, 9.0, 0.0])
    )
    assert found.sum() == pytest.approx(1.0)
    assert found[3] == 0.0, "who is not permitted is never drawn"
    assert found[0] / found[2] == pytest.approx(10.0)
    assert found[1] > 0.9


def test_softmax_keeps_a_floor() -> None:
    found = probabilities(SCORES, COST, explore(kind="softmax", temperature=0.01, floor=0.05))
    assert found.tolist() == pytest.approx([0.05, 0.9, 0.05, 0.0])
    flat = probabilities(SCORES, COST, explore(kind="softmax", temperature=0.1, floor=1.0))
    assert flat.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])


@pytest.mark.parametrize("kind", ["epsilon", "softmax"])
def test_who_costs_too_much_more_is_not_drawn(kind: str) -> None:
    found = probabilities(
        SCORES, COST, explore(kind=kind, epsilon=0.5, floor=0.1, max_extra_usd=3.0)
    )
    assert found[2] == 0.0
    assert found[0] > 0.0


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    st.sampled_from(["off", "epsilon", "softmax"]),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_has_a_chance_and_chances_sum_to_one(
    scores: list[float], kind: str, number: float
) -> None:
    found = probabilities(np.array(scores), np.ones(len(scores)), explore(kind=kind))
    assert found.sum() == pytest.approx(1.0)
    assert found[draw(found, number)] > 0.0


def test_draws_come_as_often_as_their_chances(rng: np.random.Generator) -> None:
    chances = np.array([0.05, 0.0, 0.7, 0.25])
    counts = np.bincount([draw(chances, rng.random()) for _ in range(20_000)], minlength=4)
    assert (counts / 20_000).tolist() == pytest.approx(chances.tolist(), abs=0.01)
