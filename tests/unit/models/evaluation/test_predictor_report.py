import dataclasses
from pathlib import Path

import numpy as np
import pytest

from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import QueryInputs
from models.evaluation.predictor_report import (
    PredictorReport,
    UnseenAnswers,
    plot_reports,
    predictor_reports,
    report_of,
    report_text,
)
from models.predictors.fitting import Fitted

Split = tuple[EvaluationSet, EvaluationSet]
N = 1_000


def made_up(
    fitted: Fitted,
    rng: np.random.Generator,
    bias: float = 0.0,
    longer: float = 1.0,
    noise: float = 0,
) -> PredictorReport:
    """Right or wrong by a known chance; predictions off by a bias in one source, or by noise."""
    chance = rng.uniform(0.2, 0.8, N)
    truth = (rng.random(N) < chance).astype(float)
    sources = np.where(np.arange(N) < 500, "law", "maths")
    predicted = np.clip(chance + bias * (sources == "law") + noise * rng.normal(size=N), 0, 1)
    billed = np.exp(5 + rng.normal(size=N))
    level = dataclasses.replace(
        fitted.predictor, metrics={**fitted.predictor.metrics, "mean_quality": 0.5}
    )
    length = np.full(N, billed.mean() * longer)
    answers = UnseenAnswers(predicted, truth, length, billed, sources)
    return report_of(level, answers, {"law": 3, "maths": 90})


def test_a_calibrated_predictor_is_not_flagged(
    fitted: list[Fitted], rng: np.random.Generator
) -> None:
    report = made_up(fitted[0], rng)
    assert report.flags == ()
    assert report.advice == ""
    assert 0.05 < report.skill < 0.25
    assert report.auc is not None
    assert report.auc > 0.6
    assert report.calibration_error < report.calibration_threshold
    assert report.length_ratio == pytest.approx(1.0)


def test_a_bias_is_flagged_with_where_and_what_to_do(
    fitted: list[Fitted], rng: np.random.Generator
) -> None:
    report = made_up(fitted[0], rng, bias=0.3)
    assert "quality not calibrated" in report.flags
    assert "gather outcomes of law (off by 0.2" in report.advice or "off by 0.3" in report.advice
    assert "3 training queries" in report.advice
    assert "maths" not in report.advice


def test_noise_and_lengths_are_flagged(fitted: list[Fitted], rng: np.random.Generator) -> None:
    assert "worse than its mean does" in made_up(fitted[0], rng, noise=0.6).flags[0]
    assert made_up(fitted[0], rng, longer=2.0).flags == ("response length overestimated",)
    assert made_up(fitted[0], rng, longer=0.5).flags == ("response length underestimated",)


def test_a_handful_of_queries_flags_nothing(fitted: list[Fitted]) -> None:
    few = np.arange(4) / 4
    wrong, label = 1 - few, np.array(["law"] * 4)
    answers = UnseenAnswers(few, wrong, np.full(4, 9.0), np.full(4, 900.0), label)
    report = report_of(fitted[0].predictor, answers, {})
    assert report.flags == ()


def test_every_candidate_is_reported_and_drawn(
    fitted: list[Fitted],
    split: Split,
    train_inputs: QueryInputs,
    tmp_path: Path,
) -> None:
    train = split[0]
    reports = predictor_reports(fitted, train, train, train_inputs)
    assert [r.llm for r in reports] == train.candidates
    assert all(r.queries == len(train.queries) for r in reports)
    text = report_text(reports)
    assert all(f"| {llm} |" in text for llm in train.candidates)
    plot_reports(reports, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
