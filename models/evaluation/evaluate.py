"""Evaluation: a router and its baselines on the same unseen queries, over a sweep of λ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from models.data.evaluation_set import EvaluationSet, comparable
from models.decision.estimates import DecisionDefaults, Estimates, score
from models.encoder.inputs import QueryInputs
from models.evaluation.baselines import (
    CLUSTERS,
    NEIGHBOURS,
    Guess,
    Outcomes,
    clusters,
    nearest_neighbours,
    paper_recipe,
    tuned,
)
from models.evaluation.fitted_router import FittedRouter
from models.evaluation.measures import AIQ_OVER, Measured, Routed, compare
from models.evaluation.predictor_report import PredictorReport, predictor_reports
from models.evaluation.willingness import willingness_grid

# Sources with fewer test queries are not measured apart.
LEAST_OF_SOURCE: Final = 30
SOURCE_DRAWS: Final = 200


@dataclass(frozen=True)
class Evaluation:
    """What a router and its baselines did on the same queries.

    measures: router → its measures; the router itself is "mixllm".
    results: the table of ``results.json``.
    choices: willingness_to_pay, query_id, llm; one row a setting and test query.
    curves: router → (k, 2) mean cost (USD) and mean quality, for the plot.
    reports: how far each predictor can be trusted.
    """

    measures: dict[str, Measured]
    results: dict[str, Any]
    choices: pd.DataFrame
    curves: dict[str, np.ndarray]
    reports: list[PredictorReport]


@dataclass(frozen=True)
class EvaluationOptions:
    """How a router is compared.

    beta: of the latency penalty; off by default, since the measures know quality and cost only.
    draws: bootstrap resamples.
    paper: whether the paper's own recipe is among the baselines; it takes minutes to fit.
    """

    beta: float = 0.0
    draws: int = 1000
    seed: int = 0
    paper: bool = False


DEFAULT_OPTIONS: Final = EvaluationOptions()


@dataclass(frozen=True)
class TestRows:
    """The test queries on which the candidates can be compared.

    names: the candidates.
    kept: the queries.
    inputs: of ``kept``.
    quality, cost: (n, L), the true outcomes.
    """

    names: list[str]
    kept: EvaluationSet
    inputs: QueryInputs
    quality: np.ndarray
    cost: np.ndarray


def evaluate(
    router: FittedRouter,
    test: EvaluationSet,
    test_inputs: QueryInputs,
    options: EvaluationOptions = DEFAULT_OPTIONS,
) -> Evaluation:
    """Compare the router with every baseline, over the candidates that can be compared."""
    train, beta, seed = router.data, options.beta, options.seed
    names, kept, notes = comparable(train, test)
    reports = predictor_reports(router.fitted, train, test, test_inputs)
    kept_inputs = test_inputs[test.queries["query_id"].isin(kept.queries["query_id"]).to_numpy()]
    quality, cost = kept.matrix("quality", names), kept.matrix("cost_usd", names)
    rows = TestRows(names, kept, kept_inputs, quality, cost)
    grid = willingness_grid(train.matrix("cost_usd", names))

    estimates = router.compiled(names, test.catalog).estimate(kept_inputs)
    picks = sweep(estimates, grid, beta)
    rivals, sizes = baseline_estimates(router, test, rows, seed, paper=options.paper)
    routers = {
        "mixllm": outcome_of(picks, cost, quality),
        **{n: outcome_of(sweep(e, grid, beta), cost, quality) for n, e in rivals.items()},
        **unrouted(rows),
    }
    oracle = oracle_of(grid, cost, quality)
    measures = compare(routers, oracle, Routed(cost.T, quality.T), draws=options.draws, seed=seed)
    results = {
        "training_set": train.name,
        "training_digest": train.digest,
        "test_set": test.name,
        "test_digest": test.digest,
        "training_queries": len(train.queries),
        "test_queries": len(kept.queries),
        "candidates": names,
        "best_single": names[best_single(quality)],
        "baseline_sizes": sizes,
        "directions": router.directions(names),
        "beta": beta,
        "notes": [*train.notes, *notes],
        "predictors": [report.row for report in reports],
        "measures": {name: measured.as_dict() for name, measured in measures.items()},
        "sources": by_source(rows, routers, oracle, seed),
    }
    curves = mean_curves({**routers, "oracle": oracle}, rows)
    return Evaluation(measures, results, choices_table(grid, kept, names, picks), curves, reports)


def baseline_estimates(
    router: FittedRouter, test: EvaluationSet, rows: TestRows, seed: int, *, paper: bool
) -> tuple[dict[str, Estimates], dict[str, int]]:
    """(What each baseline predicts, the sizes that were chosen for them.)"""
    compiled = router.compiled(rows.names, test.catalog)
    guesses, sizes = baseline_guesses(router.data, router.inputs, rows.names, seed, paper=paper)
    rivals = {
        name: compiled.estimate_from(rows.inputs, *guess(rows.inputs.embeddings))
        for name, guess in guesses.items()
    }
    mean_cost = np.nanmean(router.data.matrix("cost_usd", rows.names), axis=0)
    constant = np.broadcast_to(mean_cost, rows.cost.shape)
    rivals["constant_cost"] = replace(compiled.estimate(rows.inputs), cost=constant)
    unshrunk = router.compiled(rows.names, test.catalog, shrunk=False)
    rivals["no_shrinkage"] = unshrunk.estimate(rows.inputs)
    return rivals, sizes


def unrouted(rows: TestRows) -> dict[str, Routed]:
    """What no router needs to be fitted for: one LLM for every query, or any LLM."""
    best = np.full((1, len(rows.cost)), best_single(rows.quality))
    return {
        "best_single": outcome_of(best, rows.cost, rows.quality),
        "random": Routed(rows.cost.mean(axis=1)[None], rows.quality.mean(axis=1)[None]),
    }


def best_single(quality: np.ndarray) -> int:
    """The number of the candidate with the highest mean of quality (n, L)."""
    return int(np.argmax(quality.mean(axis=0)))


def mean_curves(routers: Mapping[str, Routed], rows: TestRows) -> dict[str, np.ndarray]:
    """Router → (k, 2) mean cost and quality; "zero" is the single candidates."""
    curves = {
        name: np.column_stack([routed.cost.mean(axis=1), routed.quality.mean(axis=1)])
        for name, routed in routers.items()
    }
    curves["zero"] = np.column_stack([rows.cost.mean(axis=0), rows.quality.mean(axis=0)])
    return curves


def baseline_guesses(
    train: EvaluationSet, inputs: QueryInputs, names: list[str], seed: int, *, paper: bool
) -> tuple[dict[str, Guess], dict[str, int]]:
    """(baselines that predict, the sizes that were chosen for them)."""
    outcomes = Outcomes(
        inputs.embeddings,
        train.matrix("quality", names),
        np.log1p(train.matrix("response_tokens", names)),
    )
    neighbours, by_neighbours = tuned(nearest_neighbours, NEIGHBOURS, outcomes, seed)
    count, by_cluster = tuned(clusters, CLUSTERS, outcomes, seed)
    guesses = {"tuned_knn": by_neighbours, "clusters": by_cluster}
    if paper:
        guesses["paper_recipe"] = paper_recipe(outcomes, seed)
    return guesses, {"tuned_knn": neighbours, "clusters": count}


def by_source(
    rows: TestRows, routers: Mapping[str, Routed], oracle: Routed, seed: int
) -> dict[str, Any]:
    """The measures on the test queries of each source that has enough of them."""
    sources = rows.kept.queries["source"].to_numpy()
    table = {}
    for source in np.unique(sources):
        of_source = sources == source
        if of_source.sum() < LEAST_OF_SOURCE:
            continue
        measures = compare(
            {name: routed.where(of_source) for name, routed in routers.items()},
            oracle.where(of_source),
            Routed(rows.cost[of_source].T, rows.quality[of_source].T),
            draws=SOURCE_DRAWS,
            seed=seed,
        )
        table[str(source)] = {
            "queries": int(of_source.sum()),
            "measures": {name: measured.as_dict() for name, measured in measures.items()},
        }
    return table


def sweep(estimates: Estimates, grid: np.ndarray, beta: float) -> np.ndarray:
    """Choices (k, n) at every λ of the grid."""
    defaults = DecisionDefaults(willingness_to_pay=1.0, beta=beta)
    return np.stack([np.argmax(score(estimates, defaults, wtp).total, axis=1) for wtp in grid])


def outcome_of(picks: np.ndarray, cost: np.ndarray, quality: np.ndarray) -> Routed:
    """picks: (k, n) candidate numbers; cost, quality: (n, L)."""
    rows = np.arange(len(cost))
    return Routed(cost[rows, picks], quality[rows, picks])


def oracle_of(grid: np.ndarray, cost: np.ndarray, quality: np.ndarray) -> Routed:
    """What knowing every outcome would choose at every λ of the grid."""
    picks = np.stack([np.argmax(quality - cost / wtp, axis=1) for wtp in grid])
    return outcome_of(picks, cost, quality)


def choices_table(
    grid: np.ndarray, test: EvaluationSet, names: Sequence[str], picks: np.ndarray
) -> pd.DataFrame:
    """A row a (willingness_to_pay, test query)."""
    ids = test.queries["query_id"].to_numpy()
    return pd.DataFrame(
        {
            "willingness_to_pay": np.repeat(grid, len(ids)),
            "query_id": np.tile(ids, len(grid)),
            "llm": np.asarray(names, dtype=object)[picks.ravel()],
        }
    )


def measures_table(measures: Mapping[str, Measured]) -> list[dict[str, str]]:
    """The measures as rows of text: router, then each measure with its interval."""
    return [
        {
            "router": name,
            "aiq": measured.aiq.text(share=False),
            "gap_closed": measured.gap_closed.text(share=True),
            "cost_at_97.25%_quality": measured.cost_at_quality.text(share=True),
            "quality_at_24.18%_cost": measured.quality_at_cost.text(share=True),
            AIQ_OVER: "" if name == "mixllm" else measured.aiq_over.text(share=False),
        }
        for name, measured in measures.items()
    ]


def headline(measured: Measured) -> dict[str, float]:
    """A router's measures as plain numbers; what is never reached is left out."""
    values = {
        "aiq": measured.aiq.value,
        "gap_closed": measured.gap_closed.value,
        "cost_share_at_97_quality": measured.cost_at_quality.value,
        "quality_share_at_24_cost": measured.quality_at_cost.value,
    }
    return {name: value for name, value in values.items() if value is not None}
