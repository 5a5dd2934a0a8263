"""What is evaluated and calibrated is what is released."""

from pathlib import Path

import numpy as np
import pytest

from models.data.evaluation_set import EvaluationSet
from models.decision.estimates import DecisionDefaults, score
from models.encoder.inputs import QueryInputs, read_queries
from models.encoder.onnx import OnnxEncoder
from models.evaluation.evaluate import EvaluationOptions, evaluate
from models.evaluation.fitted_router import FittedRouter
from models.predictors.fitting import Fitted
from models.release.release import Release


@pytest.fixture(scope="module")
def router(
    split: tuple[EvaluationSet, EvaluationSet], train_inputs: QueryInputs, fitted: list[Fitted]
) -> FittedRouter:
    return FittedRouter.of(split[0], train_inputs, fitted)


@pytest.fixture(scope="module")
def test_inputs(split: tuple[EvaluationSet, EvaluationSet], encoder: OnnxEncoder) -> QueryInputs:
    return read_queries(split[1].queries["query"].tolist(), encoder)


def test_fewer_candidates_are_estimated_as_if_the_others_had_never_been_there(
    router: FittedRouter, test_inputs: QueryInputs
) -> None:
    few = router.names[1:4]
    alone = FittedRouter.of(
        router.data, router.inputs, [f for f in router.fitted if f.predictor.llm in few]
    )
    kept, fitted_alone = (made.compiled(few).estimate(test_inputs) for made in (router, alone))
    np.testing.assert_allclose(kept.quality, fitted_alone.quality, rtol=1e-5)
    assert (kept.cost == fitted_alone.cost).all()
    whole = router.compiled().estimate(test_inputs).quality[:, 1:4]
    assert not np.allclose(whole, kept.quality)


def test_the_release_decides_as_the_router_that_was_evaluated(
    router: FittedRouter,
    split: tuple[EvaluationSet, EvaluationSet],
    test_inputs: QueryInputs,
    release_folder: Path,
) -> None:
    release = Release.load(release_folder)
    assert release.manifest.defaults == router.defaults()
    choices = evaluate(router, split[1], test_inputs, EvaluationOptions(draws=10)).choices
    wtp = choices["willingness_to_pay"].unique()[len(choices["willingness_to_pay"].unique()) // 2]
    evaluated = choices[choices["willingness_to_pay"] == wtp].set_index("query_id")["llm"]
    estimates = release.compiled.estimate(test_inputs)
    defaults = DecisionDefaults(willingness_to_pay=float(wtp), beta=0.0)
    picks = np.argmax(score(estimates, defaults).total, axis=1)
    released = np.array(release.compiled.candidates)[picks]
    assert (released == evaluated.loc[split[1].queries["query_id"]].to_numpy()).all()


def test_without_shrinkage_predictions_stand_as_they_are(
    router: FittedRouter, test_inputs: QueryInputs
) -> None:
    plain = router.compiled(shrunk=False).estimate(test_inputs)
    single = router.predictors[0].predict(test_inputs)[0]
    np.testing.assert_allclose(plain.quality[:, 0], np.clip(single, 0, 1), atol=1e-5)
