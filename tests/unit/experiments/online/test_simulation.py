"""The simulation of online learning, on the simulated evaluation set."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.online.experiment import reaction
from experiments.online.report import interval, online_table, summary
from experiments.online.simulation import Offline, Scenario, Stream, simulate
from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import QueryInputs
from models.evaluation.fitted_router import FittedRouter
from models.predictors.fitting import Fitted


@pytest.fixture(scope="module")
def offline(
    split: tuple[EvaluationSet, EvaluationSet],
    train_inputs: QueryInputs,
    fitted: list[Fitted],
    encoder_folder: object,
) -> Offline:
    router = FittedRouter.of(split[0], train_inputs, fitted)
    return Offline(router, router.defaults().model_copy(update={"beta": 0.0}))


@pytest.fixture(scope="module")
def stream(offline: Offline) -> Stream:
    """The training queries again and again: what they do is known."""
    router = offline.router
    rows = np.tile(np.arange(len(router.data.queries)), 3)
    columns = ("quality", "cost_usd", "prompt_tokens", "response_tokens")
    matrices = (router.data.matrix(column, router.names)[rows] for column in columns)
    return Stream(router.inputs[rows], *matrices)


def test_the_same_seed_gives_the_same_run(offline: Offline, stream: Stream) -> None:
    first = simulate(offline, stream, Scenario("binary"), seed=1)
    again = simulate(offline, stream, Scenario("binary"), seed=1)
    assert (first.picks == again.picks).all()
    assert first.state.dump() == again.state.dump()
    assert first.state.counts["applied"] == len(stream)


def test_nobody_beats_the_oracle(offline: Offline, stream: Stream) -> None:
    wtp = offline.defaults.willingness_to_pay
    for mode in ("offline", "binary"):
        found = simulate(offline, stream, Scenario(mode), seed=1)
        assert (found.oracle - found.worth(wtp) >= -1e-12).all()


def test_a_candidate_that_degrades_is_left(offline: Offline, stream: Stream) -> None:
    plain = simulate(offline, stream, Scenario("offline"), seed=2)
    worst = int(np.bincount(plain.picks).argmax())
    scenario = Scenario("binary", degraded=worst, change=0.3)
    turn = int(0.3 * len(stream))
    learned = simulate(offline, stream, scenario, seed=2)
    unmoved = simulate(offline, stream, replace(scenario, mode="offline"), seed=2)
    chosen = learned.picks == worst
    assert chosen[-200:].mean() < 0.5 * (unmoved.picks == worst)[-200:].mean()
    assert learned.quality[turn:].mean() > unmoved.quality[turn:].mean()


def test_graded_feedback_refits_predictors(offline: Offline, stream: Stream) -> None:
    found = simulate(offline, stream, Scenario("refined"), seed=3)
    assert found.refits > 0
    rows = {f.predictor.llm: f.predictor.metrics["rows"] for f in offline.router.fitted}
    assert found.compiled.candidates == list(rows)


def test_a_newcomer_is_not_chosen_before_it_is_there(offline: Offline, stream: Stream) -> None:
    found = simulate(offline, stream, Scenario("binary", new=0, change=0.5), seed=4)
    assert not (found.picks[: len(stream) // 2] == 0).any()


def test_how_soon_a_candidate_is_left_or_found() -> None:
    chosen = np.array([True] * 200 + [True] * 40 + [False] * 360)
    left = reaction(chosen, 200, new=False)
    assert left["share_before"] == 1.0
    assert left["share_at_end"] == 0.0
    assert 0 < left["reacted_after"] <= 40
    found = reaction(~chosen, 200, new=True)
    assert found["share_at_end"] == 1.0
    assert 0 < found["reacted_after"] <= 40
    assert reaction(np.ones(600, dtype=bool), 200, new=False)["reacted_after"] is None


def test_the_report_pairs_runs_by_seed() -> None:
    def row(seed: int, scenario: str, quality: float) -> dict[str, object]:
        names = ("worth", "worth_after", "cost", "aiq", "regret_oracle", "regret_fixed")
        return {
            **dict.fromkeys(names, 1.0),
            "share": 0.5,
            "seed": seed,
            "scenario": scenario,
            "quality": quality,
            "held": ["v0"] if scenario.startswith("poisoned") else [],
            "liars": ["v0", "v1"] if scenario.startswith("poisoned") else [],
        }

    runs = [row(s, "offline", 0.5 + 0.1 * s) for s in range(3)]
    runs += [row(s, "binary", 1.01 * (0.5 + 0.1 * s)) for s in range(3)]
    runs += [row(s, "poisoned 10%", 0.5 + 0.1 * s) for s in range(3)]
    found = summary(runs)
    gain = found["gains"]["50% binary"]["quality_per_cent"]
    assert gain["value"] == pytest.approx(1.0)
    assert gain["low"] == pytest.approx(gain["high"], abs=1e-9)
    assert found["scenarios"]["50% poisoned 10%"]["held_of_liars"] == 0.5
    text = online_table(found)
    assert "+1.00 [+1.00, +1.00]" in text
    assert "50%" in text


def test_an_interval_needs_two_values() -> None:
    assert interval([1.0])["low"] is None
    found = interval([1.0, 2.0, 3.0])
    assert found["low"] == pytest.approx(2.0 - 4.303 / np.sqrt(3))
