"""One battery of contract tests over every predictor family."""

import copy

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from models.encoder.inputs import FORM_WIDTH, QueryInputs
from models.predictors.families import FAMILIES
from models.predictors.families.contract import FeatureMap, Targets
from models.predictors.families.forest import Forest
from models.predictors.families.trees import axes_of, looked_at


def made_up(seed: int, n: int = 400, d: int = 40) -> tuple[QueryInputs, np.ndarray]:
    """Queries, and two targets that depend on them."""
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(n, d)) * np.geomspace(3, 0.3, d)
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    forms = rng.normal(size=(n, FORM_WIDTH)).astype(np.float32)
    quality = (e[:, 0] + 0.1 * rng.normal(size=n) > 0).astype(float)
    length = 4 + 2 * e[:, 1] + 0.3 * forms[:, 0] + 0.1 * rng.normal(size=n)
    return QueryInputs(e, forms, rng.integers(5, 200, n).astype(float)), np.column_stack(
        [quality, length]
    )


def targets(values: np.ndarray) -> Targets:
    return Targets(values, np.array([0.5, 5.0]), np.ones(len(values), dtype=bool))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> type[FeatureMap]:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def learned(family: type[FeatureMap]) -> FeatureMap:
    inputs, values = made_up(0)
    return family.learn(inputs, values - values.mean(axis=0), 0)


def predicted(learned: FeatureMap, on: QueryInputs) -> np.ndarray:
    inputs, values = made_up(0)
    heads = learned.heads(learned.represent(inputs), targets(values))
    assert heads.weights.shape[1] == 2
    combined = learned.combine(learned.represent(on), heads.weights)
    return np.asarray(combined + heads.intercepts)


def test_it_predicts_unseen_queries(learned: FeatureMap) -> None:
    fresh, truth = made_up(1)
    got = predicted(learned, fresh)
    for column in range(2):
        assert np.corrcoef(got[:, column], truth[:, column])[0, 1] > 0.5
        error = np.mean((got[:, column] - truth[:, column]) ** 2)
        assert error < truth[:, column].var()


def test_arrays_give_the_same_map(family: type[FeatureMap], learned: FeatureMap) -> None:
    fresh, _ = made_up(1, n=50)
    again = family.of(learned.arrays)
    assert again.digest == learned.digest
    np.testing.assert_array_equal(again.represent(fresh), learned.represent(fresh))
    assert all(array.dtype != object for array in learned.arrays.values())


def test_the_seed_decides_and_nothing_is_changed(family: type[FeatureMap]) -> None:
    inputs, values = made_up(0)
    before = copy.deepcopy(vars(inputs))
    first, second = (family.learn(inputs, values - values.mean(axis=0), 3) for _ in range(2))
    assert first.digest == second.digest
    for key, value in before.items():
        np.testing.assert_array_equal(vars(inputs)[key], value)


def test_one_query_alone_is_as_among_others(learned: FeatureMap) -> None:
    fresh, _ = made_up(1, n=30)
    together = predicted(learned, fresh)
    alone = predicted(learned, fresh[np.array([7])])
    np.testing.assert_allclose(alone[0], together[7], rtol=1e-4, atol=1e-5)


def test_few_rows_stay_near_the_prior(learned: FeatureMap) -> None:
    inputs, values = made_up(0)
    fresh, _ = made_up(1, n=30)
    for rows in (0, 2):
        few = np.arange(rows)
        heads = learned.heads(learned.represent(inputs[few]), targets(values[few]))
        got = learned.combine(learned.represent(fresh), heads.weights) + heads.intercepts
        assert np.abs(got[:, 0] - 0.5).max() < (0.35 if rows else 1e-9)
        assert np.abs(got[:, 1] - 5.0).max() < (0.5 if rows else 1e-9)


@pytest.mark.parametrize("rows", [1, 3, 12])
def test_a_handful_of_queries_is_enough_to_learn(family: type[FeatureMap], rows: int) -> None:
    inputs, values = made_up(0)
    few = inputs[np.arange(rows)]
    found = family.learn(few, values[:rows] - values[:rows].mean(axis=0), 0)
    heads = found.heads(found.represent(few), targets(values[:rows]))
    assert np.isfinite(found.combine(found.represent(few), heads.weights)).all()


def test_a_form_never_seen_varying_does_not_explode(family: type[FeatureMap]) -> None:
    inputs, values = made_up(0)
    inputs.forms[:, 2] = 1.0
    found = family.learn(inputs, values - values.mean(axis=0), 0)
    heads = found.heads(found.represent(inputs), targets(values))
    fresh, _ = made_up(1, n=20)
    fresh.forms[:, 2] = 1e6
    got = found.combine(found.represent(fresh), heads.weights) + heads.intercepts
    assert np.abs(got).max() < 50


def test_leaves_are_those_of_scikit_learn() -> None:
    inputs, values = made_up(0)
    mean, axes = axes_of(inputs)
    seen = looked_at(inputs, mean, axes)
    forest = RandomForestRegressor(5, max_depth=6, random_state=0).fit(seen, values)
    same = Forest.grown([tree.tree_ for tree in forest.estimators_], mean, axes)
    for mine, theirs in zip(same.represent(inputs).T, forest.apply(seen).T, strict=True):
        pairs = set(zip(mine.tolist(), theirs.tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 10
