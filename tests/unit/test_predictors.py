import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.compiled import CompiledPredictors
from models.errors import ReleaseError
from models.evaluation_set import EvaluationSet
from models.inputs import FORM_WIDTH, QueryInputs
from models.predictors import Outcomes, Predictor
from models.ridge import Decomposition, RidgeRegression
from models.training import fit_predictor
from models.uncertainty import bonus, inverse_covariance

Split = tuple[EvaluationSet, EvaluationSet]


def made_up(rng: np.random.Generator, n: int = 200, d: int = 12) -> tuple[QueryInputs, Outcomes]:
    e = rng.normal(size=(n, d)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    forms = rng.normal(size=(n, FORM_WIDTH)).astype(np.float32)
    tokens = rng.integers(5, 200, n).astype(float)
    quality = (e[:, 0] + 0.2 * rng.normal(size=n) > 0).astype(float)
    response = np.ceil(np.exp(4 + e[:, 1]))
    prompt = np.ceil(3 + 1.2 * tokens)
    outcomes = Outcomes(quality, prompt, response, (prompt * 1.0 + response * 2.0) / 1e6)
    return QueryInputs(e, forms, tokens), outcomes


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


def test_it_learns_quality_length_and_prompt(rng: np.random.Generator) -> None:
    inputs, outcomes = made_up(rng, n=800)
    predictor = Predictor("a", "digest", 1.0, 2.0).fit(inputs, outcomes)
    fresh, truth = made_up(np.random.default_rng(1), n=400)
    quality, response, prompt = predictor.predict(fresh)
    assert np.corrcoef(quality, truth.quality)[0, 1] > 0.6
    assert np.corrcoef(response, truth.response_tokens)[0, 1] > 0.9
    assert response.mean() == pytest.approx(truth.response_tokens.mean(), rel=0.05)
    np.testing.assert_allclose(prompt, truth.prompt_tokens, rtol=0.05, atol=2)
    assert predictor.cost_offset_ == pytest.approx(0, abs=1e-9)


def test_hidden_tokens_that_were_billed_are_predicted(rng: np.random.Generator) -> None:
    inputs, outcomes = made_up(rng)
    hidden = (outcomes.prompt_tokens * 1.0 + 5 * outcomes.response_tokens * 2.0) / 1e6
    billed = Outcomes(outcomes.quality, outcomes.prompt_tokens, outcomes.response_tokens, hidden)
    predictor = Predictor("a", "digest", 1.0, 2.0).fit(inputs, billed)
    _, response, _ = predictor.predict(inputs)
    assert response.mean() == pytest.approx(5 * outcomes.response_tokens.mean(), rel=0.1)


def test_a_cost_that_prices_do_not_explain_is_kept(rng: np.random.Generator) -> None:
    inputs, outcomes = made_up(rng)
    measured = np.full(len(inputs), 0.004)
    free = Outcomes(outcomes.quality, outcomes.prompt_tokens, outcomes.response_tokens, measured)
    assert Predictor("a", "digest", 0.0, 0.0).fit(inputs, free).cost_offset_ == pytest.approx(0.004)


def test_the_same_rows_give_the_same_bytes_and_nothing_is_changed(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    inputs, outcomes = made_up(rng)
    before = copy.deepcopy((vars(inputs), vars(outcomes)))
    for name in ("first", "second"):
        Predictor("a", "digest", 1.0, 2.0).fit(inputs, outcomes).save(tmp_path / name)
    for file in ("predictor.json", "predictor.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    for old, new in zip(before, (vars(inputs), vars(outcomes)), strict=True):
        for key in old:
            np.testing.assert_array_equal(old[key], new[key])


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


def test_another_candidates_rows_do_not_matter(
    split: Split, train_inputs: QueryInputs, predictors: list[Predictor]
) -> None:
    train = split[0]
    alone = train.outcomes[train.outcomes["llm"] == "sim-mini"]
    refitted = fit_predictor(
        "sim-mini", EvaluationSet(train.queries, alone, train.catalog), train_inputs, "digest"
    )
    fitted = next(p for p in predictors if p.llm == "sim-mini")
    np.testing.assert_array_equal(refitted.quality_weights_, fitted.quality_weights_)
    np.testing.assert_array_equal(refitted.length_weights_, fitted.length_weights_)


def test_compiled_scores_are_the_predictors_own(
    split: Split, predictors: list[Predictor], train_inputs: QueryInputs
) -> None:
    compiled = CompiledPredictors(predictors, split[0].catalog, deviation_scale=1.0)
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
    seen = rng.normal(size=(50, 6)).astype(np.float32)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    a = np.eye(6) + seen.T.astype(float) @ seen
    got = bonus(np.stack([inverse_covariance(seen), inverse_covariance(seen[:1])]), seen[:4])
    expected = np.sqrt(np.einsum("nd,de,ne->n", seen[:4], np.linalg.inv(a), seen[:4]))
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-5)
    assert (got[:, 0] < got[:, 1]).all()
    assert (got <= 1).all()


def test_no_rows_is_an_error(rng: np.random.Generator) -> None:
    inputs, _ = made_up(rng)
    none = np.zeros(0)
    with pytest.raises(ReleaseError, match="'a' has no outcomes"):
        Predictor("a", "digest", 1.0, 2.0).fit(inputs[none.astype(int)], Outcomes(*[none] * 4))


@pytest.mark.parametrize("harm", ["format", "nan"])
def test_a_bad_file_is_refused(harm: str, predictors: list[Predictor], tmp_path: Path) -> None:
    predictors[0].save(tmp_path)
    if harm == "format":
        config = json.loads((tmp_path / "predictor.json").read_text())
        (tmp_path / "predictor.json").write_text(json.dumps({**config, "format_version": 9}))
    else:
        arrays = load_file(tmp_path / "predictor.safetensors")
        arrays["quality_weights"][3] = np.nan
        save_file(arrays, tmp_path / "predictor.safetensors")
    with pytest.raises(ReleaseError, match=r"format 9|quality_weights not finite"):
        Predictor.load(tmp_path)
    shutil.rmtree(tmp_path)
