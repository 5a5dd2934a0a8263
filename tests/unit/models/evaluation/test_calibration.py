import numpy as np
import pytest

from models.data.evaluation_set import EvaluationSet
from models.decision.estimates import DecisionDefaults
from models.encoder.inputs import QueryInputs
from models.errors import DecisionError
from models.evaluation.calibration import Rows, calibrate, choose_defaults, expected
from models.evaluation.fitted_router import FittedRouter
from models.predictors.fitting import Fitted, fit_predictors


@pytest.fixture
def rows(
    split: tuple[EvaluationSet, EvaluationSet],
    train_inputs: QueryInputs,
    fitted: list[Fitted],
) -> Rows:
    return FittedRouter.of(split[0], train_inputs, fitted).training_rows()


def test_a_cost_share_is_kept_and_used(rows: Rows) -> None:
    quality, cost = rows.shares(calibrate(rows, cost_share=0.3))
    assert 0.27 < cost <= 0.3
    assert quality > 0.6


def test_a_quality_share_is_kept_at_the_least_cost(rows: Rows) -> None:
    found = calibrate(rows, quality_share=0.9)
    assert rows.shares(found)[0] >= 0.9
    less = DecisionDefaults(willingness_to_pay=found.willingness_to_pay / 3)
    assert rows.shares(less)[0] < 0.9 or rows.shares(less)[1] <= rows.shares(found)[1]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"quality_share": 3.0}, "no willingness to pay keeps 300.00%"),
        ({"cost_share": 0.0}, "stays within 0.00%"),
        ({}, "one of them"),
        ({"cost_share": 0.5, "quality_share": 0.5}, "one of them"),
    ],
)
def test_what_cannot_be_met_is_said(shares: dict[str, float], message: str, rows: Rows) -> None:
    with pytest.raises(DecisionError, match=message):
        calibrate(rows, **shares)


def test_the_defaults_keep_quality(rows: Rows) -> None:
    assert rows.shares(choose_defaults(rows))[0] >= 0.9


def test_the_expectation_has_an_interval(rows: Rows) -> None:
    for value, low, high in expected(rows, calibrate(rows, cost_share=0.3)).values():
        assert low < value < high


def test_a_candidate_with_few_outcomes_sets_no_aim(
    split: tuple[EvaluationSet, EvaluationSet],
    train_inputs: QueryInputs,
    fitted: list[Fitted],
    rows: Rows,
) -> None:
    train = split[0]
    few = train.outcomes["llm"].ne("sim-nano") | (np.arange(len(train.outcomes)) % 60 == 0)
    sparse = EvaluationSet(train.queries, train.outcomes[few], train.catalog)
    (nano,) = fit_predictors(sparse, train_inputs, "d", ["sim-nano"])
    refitted = [nano if found.predictor.llm == "sim-nano" else found for found in fitted]
    kept = FittedRouter.of(sparse, train_inputs, refitted).training_rows()
    assert kept.quality.shape == (len(rows.quality), len(fitted) - 1)
