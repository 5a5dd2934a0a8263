"""The online experiment: part of the training queries offline, the rest as a stream with feedback.

Every run's figures are appended to ``runs.jsonl`` as soon as they are there: what was killed goes on
where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from experiments.online.report import WHOLE
from experiments.online.simulation import (
    VOTERS,
    Learner,
    Offline,
    Online,
    Scenario,
    Stream,
    simulate,
)
from infra.settings import Settings
from infra.training import steps as training_steps
from models.data.evaluation_set import EvaluationSet, comparable
from models.decision.estimates import DecisionDefaults, Estimates, score
from models.decision.exploration import Exploration
from models.encoder.inputs import QueryInputs
from models.encoder.onnx import encoder_digest
from models.evaluation.evaluate import outcome_of
from models.evaluation.fitted_router import FittedRouter
from models.evaluation.measures import aiq
from models.evaluation.willingness import willingness_grid
from models.learning.policy_state import PolicyState
from models.predictors.compiled import CompiledPredictors
from models.predictors.fitting import fit_predictors, shrinkage_of
from models.predictors.predictor import shared_maps
from models.training_options import read_options

RUNS_FILE: Final = "runs.jsonl"
# The share at which scenarios beside the plain stream are run.
MIDDLE: Final = 0.5
# Evaluated queries that a new candidate's predictor starts from.
NEW_ROWS: Final = 100
# Points of the curves that are kept of a run; queries of a window in which choices are counted.
POINTS: Final = 60
WINDOW: Final = 50
Say = Callable[[str], None]


class Taught(Protocol):
    """Predictors, and what votes have taught beyond them."""

    compiled: CompiledPredictors
    state: PolicyState


@dataclass(frozen=True)
class Sets:
    """The whole training half, the test queries and the encoder that read both."""

    train: EvaluationSet
    train_inputs: QueryInputs
    test: EvaluationSet
    test_inputs: QueryInputs
    names: list[str]
    encoder: str


def read_sets(data: EvaluationSet, settings: Settings, bar: Callable[[str, int], Any]) -> Sets:
    """Queries that every candidate answered, read by the frozen encoder."""
    train, test = data.split()
    names, test, _ = comparable(train, test)
    train = train.where(np.isfinite(train.matrix("quality", names)).all(axis=1))
    folder = training_steps.encoder_folder(train, None, read_options(encoder="frozen"), settings)
    inputs = []
    for name, part in (("training", train), ("test", test)):
        queries = part.queries["query"].tolist()
        with bar(f"embedding {name} queries", len(queries)) as advance:
            inputs.append(training_steps.embed(queries, folder, settings, advance))
    return Sets(train, inputs[0], test, inputs[1], names, encoder_digest(folder))


def scenarios(share: float) -> dict[str, dict[str, Any]]:
    """Name → what ``Scenario`` is told; "best" and "chosen" stand for candidates."""
    plain: dict[str, dict[str, Any]] = {
        mode: {"mode": mode} for mode in ("offline", "binary", "refined")
    }
    if share != MIDDLE:
        return plain
    more: dict[str, dict[str, Any]] = {}
    for mode in ("offline", "binary", "refined"):
        more[f"degraded, {mode}"] = {"mode": mode, "degraded": "chosen"}
        more[f"new, {mode}"] = {"mode": mode, "new": "best"}
    for part in (0.1, 0.2, 0.3):
        more[f"flipped {part:.0%}"] = {"mode": "binary", "flipped": part}
        more[f"poisoned {part:.0%}"] = {"mode": "binary", "poisoned": part}
    explore = Exploration(kind="epsilon", epsilon=0.02)
    more["explored, binary"] = {"mode": "binary", "exploration": explore}
    more["explored, refined"] = {"mode": "refined", "exploration": explore}
    return {**plain, **more}


def run(
    data: EvaluationSet,
    settings: Settings,
    out: Path,
    shares: Sequence[float],
    seeds: Sequence[int],
    bar: Callable[[str, int], Any],
) -> list[dict[str, Any]]:
    """Every run's figures; those in ``out`` already are not run again."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / RUNS_FILE
    done = read_runs(out)
    known = {(r["set"], r["share"], r["seed"], r["scenario"]) for r in done}
    jobs = [(seed, share) for seed in seeds for share in shares]
    wanted = {
        job: [n for n in scenarios(job[1]) if (data.name, job[1], job[0], n) not in known]
        for job in jobs
    }
    total = sum(len(names) for names in wanted.values())
    if not total:
        return done
    sets = read_sets(data, settings, bar)
    with bar("online runs", total + 1) as advance:
        if (data.name, 1.0, 0, WHOLE) not in known:
            row = {"set": data.name, "share": 1.0, "seed": 0, "scenario": WHOLE}
            done.append(keep(path, {**row, "aiq": whole_aiq(sets)}))
        advance(1)
        for (seed, share), names in wanted.items():
            if not names:
                continue
            order = np.random.default_rng(seed).permutation(len(sets.train.queries))
            cut = int(share * len(order))
            offline = fit_offline(sets, np.sort(order[:cut]))
            stream = stream_of(sets, order[cut:])
            plain = simulate(offline, stream, Scenario("offline"), seed)
            for name in names:
                found = one(sets, offline, stream, plain, scenarios(share)[name], seed)
                row = {"set": data.name, "share": share, "seed": seed, "scenario": name, **found}
                done.append(keep(path, row))
                advance(1)
    return done


def keep(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Append a run."""
    with path.open("a") as handle:
        handle.write(json.dumps(row) + "\n")
    return row


def whole_aiq(sets: Sets) -> float:
    """What nobody can beat who sees one outcome a query: every outcome of every training query."""
    offline = fit_offline(sets, np.arange(len(sets.train.queries)))
    return test_aiq(sets, offline.defaults, Learner(offline, stream_of(sets, np.arange(1))))


def read_runs(out: Path) -> list[dict[str, Any]]:
    """The runs kept so far."""
    path = out / RUNS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def fit_offline(sets: Sets, rows: np.ndarray) -> Offline:
    """What is trained before the stream, on these training queries."""
    mask = np.zeros(len(sets.train.queries), dtype=bool)
    mask[rows] = True
    data, inputs = sets.train.where(mask), sets.train_inputs[mask]
    router = FittedRouter.fit(data, inputs, sets.encoder, names=sets.names)
    return Offline(router, router.defaults().model_copy(update={"beta": 0.0}))


def stream_of(sets: Sets, rows: np.ndarray) -> Stream:
    """The queries of these training rows, in this order."""
    columns = ("quality", "cost_usd", "prompt_tokens", "response_tokens")
    truth = (sets.train.matrix(column, sets.names)[rows] for column in columns)
    return Stream(sets.train_inputs[rows], *truth)


def one(
    sets: Sets,
    offline: Offline,
    stream: Stream,
    plain: Online,
    told: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """One run's figures. plain: the offline run on the same stream."""
    told = dict(told)
    marked = None
    if told.get("degraded") == "chosen":
        marked = told["degraded"] = int(np.bincount(plain.picks).argmax())
    if told.get("new") == "best":
        wtp = offline.defaults.willingness_to_pay
        marked = told["new"] = int((stream.quality - stream.cost / wtp).mean(axis=0).argmax())
        offline = with_newcomer(sets, offline, marked)
    scenario = Scenario(**told)
    found = simulate(offline, stream, scenario, seed)
    return figures(sets, offline, stream, scenario, found, marked)


def with_newcomer(sets: Sets, offline: Offline, new: int) -> Offline:
    """The same, but one candidate was seen on a few queries only."""
    name = sets.names[new]
    router = offline.router
    others = [found for found in router.fitted if found.predictor.llm != name]
    few = np.zeros(len(router.data.queries), dtype=bool)
    few[:NEW_ROWS] = True
    maps = shared_maps(found.predictor for found in others)
    (newcomer,) = fit_predictors(
        router.data.where(few), router.inputs[few], router.encoder, [name], maps=maps
    )
    by_name = {found.predictor.llm: found for found in (*others, newcomer)}
    fitted = tuple(by_name[name] for name in sets.names)
    shrinkage = shrinkage_of(others, router.data, router.inputs)
    return Offline(replace(router, fitted=fitted, shrinkage=shrinkage), offline.defaults)


def figures(
    sets: Sets,
    offline: Offline,
    stream: Stream,
    scenario: Scenario,
    found: Online,
    marked: int | None,
) -> dict[str, Any]:
    """What is kept of a run. marked: the candidate that degrades or is new."""
    wtp = offline.defaults.willingness_to_pay
    worth = found.worth(wtp)
    turn = int(scenario.change * len(stream))
    points = np.unique(np.linspace(1, len(stream), POINTS).astype(int))
    row = {
        "queries": len(stream),
        "willingness_to_pay": wtp,
        "quality": float(found.quality.mean()),
        "cost": float(found.cost.mean()),
        "worth": float(worth.mean()),
        "worth_after": float(worth[turn:].mean()),
        "regret_oracle": float((found.oracle - worth).sum()),
        "regret_fixed": float((found.fixed - worth).sum()),
        "aiq": test_aiq(sets, offline.defaults, found),
        "refits": found.refits,
        "held": found.held,
        "liars": [f"v{i}" for i in range(round(scenario.poisoned * VOTERS))],
        "at": points.tolist(),
        "curves": {
            name: np.cumsum(values)[points - 1].round(5).tolist()
            for name, values in {
                "quality": found.quality,
                "cost": found.cost,
                "worth": worth,
                "oracle": found.oracle,
                "fixed": found.fixed,
            }.items()
        },
    }
    if marked is not None:
        chosen = found.picks == marked
        row |= {"marked": sets.names[marked], **reaction(chosen, turn, scenario.new is not None)}
    return row


def reaction(chosen: np.ndarray, turn: int, new: bool) -> dict[str, Any]:
    """How soon a candidate is left or found. chosen: (n,) whether it was.

    A degraded one is left when, of the next ``WINDOW`` queries, it gets less than half its share of
    before, a new one is found when it gets half of its share at the end: the first query from which
    that holds; None where it never does.
    """
    before = float(chosen[max(0, turn - 4 * WINDOW) : turn].mean())
    end = float(chosen[-4 * WINDOW :].mean())
    shares = np.convolve(chosen[turn:], np.ones(WINDOW) / WINDOW, mode="valid")
    good = shares >= 0.5 * end if new else shares < 0.5 * before
    first = int(np.argmax(good)) if good.any() and (end > 0 or not new) else None
    return {"share_before": before, "share_at_end": end, "reacted_after": first}


def test_aiq(sets: Sets, defaults: DecisionDefaults, found: Taught) -> float:
    """The area of the test queries' curve, as routed by what was learned at the end."""
    names = found.compiled.candidates
    quality, cost = sets.test.matrix("quality", names), sets.test.matrix("cost_usd", names)
    estimates = refined(found.state, found.compiled.estimate(sets.test_inputs), sets.test_inputs)
    picks = np.stack(
        [
            np.argmax(score(estimates, defaults, wtp).total, axis=1)
            for wtp in willingness_grid(sets.train.matrix("cost_usd", names))
        ]
    )
    routed = outcome_of(picks, cost, quality)
    singles = cost.mean(axis=0)
    return aiq(
        routed.cost.mean(axis=1),
        routed.quality.mean(axis=1),
        float(singles.min()),
        float(singles.max()),
    )


def refined(state: PolicyState, estimates: Estimates, inputs: QueryInputs) -> Estimates:
    """Many queries' estimates with a policy state's say."""
    rows = [
        state.refine(estimates[i : i + 1], embedding)
        for i, embedding in enumerate(inputs.embeddings)
    ]
    return Estimates(
        **{name: np.concatenate([vars(row)[name] for row in rows]) for name in vars(rows[0])}
    )
