import numpy as np
import pytest

from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import QueryInputs
from models.predictors.fitting import Fitted, fit_predictors
from models.predictors.predictor import shared_maps
from models.predictors.refitting import SEEN, GradedAnswers, due, refitted, with_answers


@pytest.fixture
def answers(split: tuple[EvaluationSet, EvaluationSet], train_inputs: QueryInputs) -> GradedAnswers:
    """Bad answers of one candidate to the first 60 queries."""
    n = 60
    return GradedAnswers(
        ids=[f"d{i}" for i in range(n)],
        llms=["sim-mini"] * n,
        inputs=train_inputs[np.arange(n)],
        quality=np.zeros(n),
        prompt_tokens=np.full(n, 20.0),
        response_tokens=np.full(n, 100.0),
        cost_usd=np.full(n, np.nan),
    )


def test_a_predictor_is_due_when_enough_has_come() -> None:
    fitted = {"small": 200.0, "large": 5000.0, "quiet": 200.0}
    assert due({"small": 100, "large": 499, "quiet": 99}, fitted) == ["small"]
    assert due({"small": 99, "large": 500}, fitted) == ["large"]


def test_graded_answers_become_training_rows(
    split: tuple[EvaluationSet, EvaluationSet], train_inputs: QueryInputs, answers: GradedAnswers
) -> None:
    train = split[0]
    data, inputs = with_answers(train, train_inputs, answers)
    assert len(data.queries) == len(inputs) == len(train.queries) + 60
    names = train.candidates
    quality = data.matrix("quality", names)[len(train.queries) :]
    assert (quality[:, names.index("sim-mini")] == 0).all()
    assert np.isnan(np.delete(quality, names.index("sim-mini"), axis=1)).all()
    cost = data.matrix("cost_usd", names)[-1, names.index("sim-mini")]
    entry = train.catalog.get("sim-mini")
    assert cost == pytest.approx((20 * entry.input_price + 100 * entry.output_price) / 1e6)
    assert answers.counts() == {"sim-mini": 60}
    assert len(answers.where(np.arange(60) < 10)) == 10


def test_a_refit_follows_the_answers_and_keeps_the_mean_of_all_queries(
    split: tuple[EvaluationSet, EvaluationSet],
    train_inputs: QueryInputs,
    answers: GradedAnswers,
    fitted: list[Fitted],
) -> None:
    data, inputs = with_answers(split[0], train_inputs, answers)
    (old,) = (f.predictor for f in fitted if f.predictor.llm == "sim-mini")
    maps = shared_maps(f.predictor for f in fitted)
    (found,) = fit_predictors(data, inputs, old.encoder, ["sim-mini"], maps=maps)
    new = refitted(old, found.predictor, 77.0)
    rows = train_inputs[np.arange(60)]
    assert new.predict(rows)[0].mean() < old.predict(rows)[0].mean() - 0.1
    assert new.metrics["mean_quality"] == old.metrics["mean_quality"]
    assert new.metrics[SEEN] == 77.0
    assert new.metrics["rows"] == old.metrics["rows"] + 60
