import numpy as np
import pytest

from models.predictors.recipe import calibration_line, choose_recipe

N = 2_000


@pytest.fixture
def truth(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0.5, 0.3, N)


def everywhere(n: int = N) -> np.ndarray:
    return np.ones(n, dtype=bool)


def test_like_families_are_averaged(truth: np.ndarray, rng: np.random.Generator) -> None:
    unseen = {name: truth + rng.normal(0, 0.3, N) for name in ("a", "b", "c")}
    recipe = choose_recipe(unseen, truth, everywhere())
    assert recipe.families == ("a", "b", "c")
    assert recipe.error < min(np.mean((p - truth) ** 2) for p in unseen.values())


def test_one_that_is_clearly_better_stands_alone(
    truth: np.ndarray, rng: np.random.Generator
) -> None:
    unseen = {"good": truth + rng.normal(0, 0.05, N), "noise": rng.normal(0.5, 1.0, N)}
    assert choose_recipe(unseen, truth, everywhere()).families == ("good",)
    assert choose_recipe(unseen, truth, everywhere(), alone=False).families == ("good", "noise")


def test_a_difference_within_chance_changes_nothing(rng: np.random.Generator) -> None:
    truth = rng.normal(size=30)
    unseen = {"a": truth + rng.normal(0, 1.0, 30), "b": truth + rng.normal(0, 1.1, 30)}
    assert choose_recipe(unseen, truth, everywhere(30)).families == ("a", "b")


def test_predictions_are_calibrated(truth: np.ndarray) -> None:
    timid = 0.1 + 0.6 * truth
    recipe = choose_recipe({"timid": timid}, truth, everywhere())
    assert recipe.slope == pytest.approx(1 / 0.6, rel=0.05)
    np.testing.assert_allclose(recipe.predicted, truth, atol=0.06)
    np.testing.assert_allclose(recipe.predicted, recipe.intercept + recipe.slope * timid)


def test_few_rows_calibrate_nothing(rng: np.random.Generator) -> None:
    slope, intercept = calibration_line(np.array([0.4, 0.6]), np.array([0.0, 1.0]))
    assert slope == pytest.approx(1.0, abs=0.05)
    assert intercept == pytest.approx(0.0, abs=0.05)


def test_only_judged_rows_count(truth: np.ndarray, rng: np.random.Generator) -> None:
    judged = np.arange(N) < 500
    flattering = np.where(judged, rng.normal(0.5, 1.0, N), truth)
    unseen = {"flattering": flattering, "plain": truth + rng.normal(0, 0.2, N)}
    assert choose_recipe(unseen, truth, judged).families == ("plain",)
