import numpy as np
import pytest

from models.queries.perturbations import PERTURBATIONS

QUESTION = "Which planet is the largest?\nA. Earth\nB. Jupiter\nC. Mars\nD. Venus"


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_each_changes_the_text_and_is_repeatable(kind: str) -> None:
    change = PERTURBATIONS[kind]
    once = change(QUESTION * 3, np.random.default_rng(0))
    assert once != QUESTION * 3
    assert once == change(QUESTION * 3, np.random.default_rng(0))


def test_options_move_under_the_same_letters() -> None:
    found = PERTURBATIONS["reordered options"](QUESTION, np.random.default_rng(0)).split("\n")
    assert found[0] == "Which planet is the largest?"
    assert [line[:2] for line in found[1:]] == ["A.", "B.", "C.", "D."]
    assert sorted(line[3:] for line in found[1:]) == ["Earth", "Jupiter", "Mars", "Venus"]


def test_what_has_no_options_stays() -> None:
    assert (
        PERTURBATIONS["reordered options"]("Add 1 and 2.", np.random.default_rng(0))
        == "Add 1 and 2."
    )


@pytest.mark.parametrize("kind", ["whitespace", "case"])
def test_words_stay(kind: str) -> None:
    found = PERTURBATIONS[kind](QUESTION, np.random.default_rng(0))
    assert found.lower().split() == QUESTION.lower().split()


def test_typos_keep_the_letters() -> None:
    found = PERTURBATIONS["typos"](QUESTION * 5, np.random.default_rng(0))
    assert sorted(found) == sorted(QUESTION * 5)
