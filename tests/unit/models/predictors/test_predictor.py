import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from models.catalog import Candidate, Catalog
from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import FORM_WIDTH, QueryInputs
from models.errors import ReleaseError
from models.predictors.compiled import CompiledPredictors
from models.predictors.fitting import Fitted, NewMaps, fit_predictors, steps
from models.predictors.predictor import Predictor, shared_maps
from models.predictors.projection import leading_directions
from models.predictors.ridge import Decomposition, RidgeRegression
from models.predictors.uncertainty import along, bonus, inverse_covariance

Split = tuple[EvaluationSet, EvaluationSet]


def made_up(
    seed: int, n: int = 300, d: int = 12, prices: tuple[float, float] = (1.0, 2.0)
) -> tuple[QueryInputs, EvaluationSet]:
    """One candidate, ``a``, whose outcomes depend on the queries."""
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(n, d)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    forms = rng.normal(size=(n, FORM_WIDTH)).astype(np.float32)
    tokens = rng.integers(5, 200, n).astype(float)
    ids = [f"q{i}" for i in range(n)]
    outcomes = pd.DataFrame(
        {
            "query_id": ids,
            "llm": "a",
            "quality": (e[:, 0] + 0.2 * rng.normal(size=n) > 0).astype(float),
            "prompt_tokens": np.ceil(3 + 1.2 * tokens),
            "response_tokens": np.ceil(np.exp(4 + e[:, 1])),
        }
    )
    charged = outcomes["prompt_tokens"] * prices[0] + outcomes["response_tokens"] * prices[1]
    outcomes["cost_usd"] = charged / 1e6
    entry = Candidate(
        name="a",
        input_price=prices[0],
        output_price=prices[1],
        tokens_per_second=50,
        time_to_first_token=0.5,
    )
    queries = pd.DataFrame({"query_id": ids, "query": ids, "source": "made up"})
    data = EvaluationSet(queries, outcomes, Catalog(llms=(entry,)))
    return QueryInputs(e, forms, tokens), data


def fit_one(inputs: QueryInputs, data: EvaluationSet) -> Predictor:
    (fitted,) = fit_predictors(data, inputs, "digest")
    return fitted.predictor


def test_leave_one_out_is_that_of_refitting(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(40, 5)), rng.normal(size=40)
    model = RidgeRegression(prior=0.0, prior_rows=0.0).fit(Decomposition(x), y)
    for held in range(0, 40, 7):
        kept = np.arange(40) != held
        middle, centre = x[kept].mean(0), y[kept].mean()
        gram = (x[kept] - middle).T @ (x[kept] - middle) + model.penalty_ * np.eye(5)
        weights = np.linalg.solve(gram, (x[kept] - middle).T @ (y[kept] - centre))
        expected = (x[held] - middle) @ weights + centre
        assert model.leave_one_out_[held] == pytest.approx(expected, rel=1e-6)


def test_the_penalty_is_the_strongest_within_one_standard_error(rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, 20))
    noise = RidgeRegression(0.0, 0.0).fit(Decomposition(x), rng.normal(size=300))
    clear = RidgeRegression(0.0, 0.0).fit(Decomposition(x), 3 * x[:, 0] + 0.1 * x[:, 1])
    assert noise.penalty_ > 100 * clear.penalty_
    assert np.abs(noise.weights_).max() < 0.1


def test_few_rows_shrink_towards_the_prior(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3))
    model = RidgeRegression(prior=0.5, prior_rows=20.0).fit(Decomposition(x), np.ones(2))
    assert 0.5 < model.predict(np.zeros((1, 3)))[0] < 0.6


def test_it_learns_quality_length_and_prompt() -> None:
    predictor = fit_one(*made_up(0, n=800))
    fresh, data = made_up(1, n=400)
    truth = data.outcomes
    quality, response, prompt = predictor.predict(fresh)
    assert np.corrcoef(quality, truth["quality"])[0, 1] > 0.6
    assert np.corrcoef(response, truth["response_tokens"])[0, 1] > 0.9
    assert response.mean() == pytest.approx(truth["response_tokens"].mean(), rel=0.05)
    np.testing.assert_allclose(prompt, truth["prompt_tokens"], rtol=0.05, atol=2)
    assert predictor.cost_offset_usd == pytest.approx(0, abs=1e-9)


def test_hidden_tokens_that_were_billed_are_predicted() -> None:
    inputs, data = made_up(0)
    rows = data.outcomes
    hidden = (rows["prompt_tokens"] + 5 * rows["response_tokens"] * 2.0) / 1e6
    billed = dataclasses.replace(data, outcomes=rows.assign(cost_usd=hidden))
    _, response, _ = fit_one(inputs, billed).predict(inputs)
    assert response.mean() == pytest.approx(5 * rows["response_tokens"].mean(), rel=0.1)


def test_a_cost_that_prices_do_not_explain_is_kept() -> None:
    inputs, data = made_up(0, prices=(0.0, 0.0))
    measured = dataclasses.replace(data, outcomes=data.outcomes.assign(cost_usd=0.004))
    assert fit_one(inputs, measured).cost_offset_usd == pytest.approx(0.004)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    inputs, data = made_up(0)
    for name in ("first", "second"):
        fit_one(inputs, data).save(tmp_path / name)
    for file in ("predictor.json", "predictor.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_progress_is_told_of_every_step() -> None:
    inputs, data = made_up(0)
    seen: list[int] = []
    fit_predictors(data, inputs, "digest", maps=NewMaps(("ridge", "forest"), seen.append))
    assert sum(seen) == steps(("ridge", "forest")) == 12


def test_predictions_to_judge_by_are_of_unseen_rows(
    fitted: list[Fitted], split: Split, train_inputs: QueryInputs
) -> None:
    for found in fitted:
        truth = split[0].matrix("quality", [found.predictor.llm])[:, 0]
        assert found.quality.shape == found.tokens.shape == truth.shape
        unseen = np.mean((found.quality - truth) ** 2)
        assert unseen**0.5 == pytest.approx(found.predictor.metrics["quality_rmse"], abs=0.03)
        assert np.mean((found.predictor.predict(train_inputs)[0] - truth) ** 2) < unseen


def test_saving_and_loading_predicts_the_same(
    predictors: list[Predictor], train_inputs: QueryInputs, tmp_path: Path
) -> None:
    for number, predictor in enumerate(predictors):
        predictor.save(tmp_path / str(number))
        loaded = Predictor.load(tmp_path / str(number))
        for a, b in zip(predictor.predict(train_inputs), loaded.predict(train_inputs), strict=True):
            np.testing.assert_array_equal(a, b)
        size = sum(path.stat().st_size for path in (tmp_path / str(number)).iterdir())
        assert size < 2 * 2**20


def test_heads_over_given_maps_need_no_other_candidate(
    split: Split, train_inputs: QueryInputs, predictors: list[Predictor]
) -> None:
    train = split[0]
    maps = shared_maps(predictors)
    alone = train.outcomes[train.outcomes["llm"] == "sim-mini"]
    data = EvaluationSet(train.queries, alone, train.catalog)
    (fitted,) = fit_predictors(data, train_inputs, "digest", ["sim-mini"], maps=maps)
    assert fitted.predictor.maps.digests == maps.digests
    known = next(p for p in predictors if p.llm == "sim-mini").predict(train_inputs)[0]
    got = fitted.predictor.predict(train_inputs)[0]
    assert np.corrcoef(known, got)[0, 1] > 0.9  # all families' mean, where one stood alone


def test_compiled_scores_are_the_predictors_own(
    split: Split, predictors: list[Predictor], train_inputs: QueryInputs
) -> None:
    compiled = CompiledPredictors(predictors, split[0].catalog)
    estimates = compiled.estimate(train_inputs)
    for i, predictor in enumerate(predictors):
        quality, response, prompt = predictor.predict(train_inputs)
        np.testing.assert_allclose(estimates.quality[:, i], quality, atol=1e-5)
        np.testing.assert_allclose(estimates.response_tokens[:, i], response, rtol=1e-4)
        np.testing.assert_allclose(estimates.prompt_tokens[:, i], prompt, rtol=1e-9)
    one = compiled.estimate(train_inputs[np.array([3])])
    np.testing.assert_allclose(one.quality[0], estimates.quality[3], atol=1e-5)
    np.testing.assert_allclose(one.uncertainty[0], estimates.uncertainty[3], rtol=1e-3)


def test_uncertainty_is_the_formula_and_falls_with_sight(rng: np.random.Generator) -> None:
    seen = rng.normal(size=(50, 9)).astype(np.float32)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    rows = along(seen, leading_directions(seen, 5))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    a = np.eye(6) + rows.T.astype(float) @ rows
    got = bonus(np.stack([inverse_covariance(rows), inverse_covariance(rows[:1])]), rows[:4])
    expected = np.sqrt(np.einsum("nd,de,ne->n", rows[:4], np.linalg.inv(a), rows[:4]))
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-5)
    assert (got[:, 0] < got[:, 1]).all()
    assert (got <= 1).all()


def test_along_every_direction_it_is_the_whole_matrix(rng: np.random.Generator) -> None:
    seen = rng.normal(size=(50, 6)).astype(np.float32)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    rows = along(seen, leading_directions(seen, 6))
    got = bonus(inverse_covariance(rows)[None], rows)[:, 0]
    whole = np.linalg.inv(np.eye(6) + seen.T.astype(float) @ seen)
    np.testing.assert_allclose(got, np.sqrt(np.einsum("nd,de,ne->n", seen, whole, seen)), rtol=1e-3)


def test_no_rows_is_an_error() -> None:
    inputs, data = made_up(0)
    entry = data.catalog.llms[0].model_copy(update={"name": "silent"})
    both = dataclasses.replace(data, catalog=Catalog(llms=(*data.catalog.llms, entry)))
    with pytest.raises(ReleaseError, match="'silent' has no outcomes"):
        fit_predictors(both, inputs, "digest", ["a", "silent"])


@pytest.mark.parametrize("harm", ["format", "nan"])
def test_a_bad_file_is_refused(harm: str, predictors: list[Predictor], tmp_path: Path) -> None:
    predictors[0].save(tmp_path)
    if harm == "format":
        config = json.loads((tmp_path / "predictor.json").read_text())
        (tmp_path / "predictor.json").write_text(json.dumps({**config, "format_version": 9}))
    else:
        arrays = load_file(tmp_path / "predictor.safetensors")
        arrays["inverse_covariance"][3] = np.nan
        save_file(arrays, tmp_path / "predictor.safetensors")
    with pytest.raises(ReleaseError, match=r"not of format 2|inverse_covariance not finite"):
        Predictor.load(tmp_path)
    shutil.rmtree(tmp_path)
