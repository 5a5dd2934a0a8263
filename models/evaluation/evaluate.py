"""Evaluation: a router and its baselines on the same unseen queries, over a sweep of λ."""

from __future__ import annotations

from collections.abc import Sequence
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
from models.evaluation.measures import Routed, compare
from models.evaluation.predictor_report import PredictorReport, predictor_reports
from models.evaluation.willingness import willingness_grid

# Sources with fewer test queries are not measured apart.
LEAST_OF_SOURCE: Final = 30
SOURCE_DRAWS: Final = 200


@dataclass(frozen=True)
class Evaluation:
    """results: the table of ``results.json``. choices: willingness_to_pay, query_id, llm; one row a
    setting and test query. curves: name → (k, 2) mean cost (USD) and mean quality, for the plot.
    reports: how far each predictor can be trusted."""

    results: dict[str, Any]
    choices: pd.DataFrame
    curves: dict[str, np.ndarray]
    reports: list[PredictorReport]


def evaluate(
    router: FittedRouter,
    test: EvaluationSet,
    test_inputs: QueryInputs,
    beta: float = 0.0,
    draws: int = 1000,
    seed: int = 0,
    paper: bool = False,
) -> Evaluation:
    """Compare the router with every baseline, over the candidates that can be compared.

    The measures know quality and cost only, so the latency penalty is off unless beta is given.
    paper: whether the paper's own recipe is among the baselines; it takes minutes to fit.
    """
    train = router.data
    names, kept, notes = comparable(train, test)
    reports = predictor_reports(router.fitted, train, test, test_inputs)
    test_inputs = test_inputs[test.queries["query_id"].isin(kept.queries["query_id"]).to_numpy()]
    compiled = router.compiled(names, test.catalog)
    quality, cost = kept.matrix("quality", names), kept.matrix("cost_usd", names)
    train_cost = train.matrix("cost_usd", names)
    grid = willingness_grid(train_cost)

    estimates = compiled.estimate(test_inputs)
    picks = sweep(estimates, grid, beta)
    guesses, sizes = baseline_guesses(train, router.inputs, names, seed, paper)
    rivals = {
        name: compiled.estimate_from(test_inputs, *guess(test_inputs.embeddings))
        for name, guess in guesses.items()
    }
    constant = np.broadcast_to(np.nanmean(train_cost, axis=0), cost.shape)
    rivals["constant_cost"] = replace(estimates, cost=constant)
    rivals["no_shrinkage"] = router.compiled(names, test.catalog, shrunk=False).estimate(
        test_inputs
    )
    best = int(np.argmax(quality.mean(axis=0)))
    routers = {
        "mixllm": outcome_of(picks, cost, quality),
        **{n: outcome_of(sweep(e, grid, beta), cost, quality) for n, e in rivals.items()},
        "best_single": outcome_of(np.full((1, len(cost)), best), cost, quality),
        "random": Routed(cost.mean(axis=1)[None], quality.mean(axis=1)[None]),
    }
    oracle = oracle_of(grid, cost, quality)
    curves = {
        name: np.column_stack([routed.cost.mean(axis=1), routed.quality.mean(axis=1)])
        for name, routed in {**routers, "oracle": oracle}.items()
    }
    curves["zero"] = np.column_stack([cost.mean(axis=0), quality.mean(axis=0)])
    results = {
        "training_set": train.name,
        "training_digest": train.digest,
        "test_set": test.name,
        "test_digest": test.digest,
        "training_queries": len(train.queries),
        "test_queries": len(kept.queries),
        "candidates": names,
        "best_single": names[best],
        "baseline_sizes": sizes,
        "directions": len(router.shrinkage.over(names, compiled.means).slopes),
        "beta": beta,
        "notes": [*train.notes, *notes],
        "predictors": [report.row for report in reports],
        "measures": compare(routers, oracle, cost, quality, draws=draws, seed=seed),
        "sources": by_source(
            kept.queries["source"].to_numpy(), routers, oracle, cost, quality, seed
        ),
    }
    return Evaluation(results, choices_table(grid, kept, names, picks), curves, reports)


def baseline_guesses(
    train: EvaluationSet, inputs: QueryInputs, names: list[str], seed: int, paper: bool
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
    sources: np.ndarray,
    routers: dict[str, Routed],
    oracle: Routed,
    cost: np.ndarray,
    quality: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """The measures on the test queries of each source that has enough of them."""
    found = {}
    for source in np.unique(sources):
        rows = sources == source
        if rows.sum() < LEAST_OF_SOURCE:
            continue
        parts = {name: Routed(r.cost[:, rows], r.quality[:, rows]) for name, r in routers.items()}
        measured = compare(
            parts,
            Routed(oracle.cost[:, rows], oracle.quality[:, rows]),
            cost[rows],
            quality[rows],
            draws=SOURCE_DRAWS,
            seed=seed,
        )
        found[str(source)] = {"queries": int(rows.sum()), "measures": measured}
    return found


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


def measures_table(results: dict[str, Any]) -> list[dict[str, str]]:
    """The measures as rows of text: router, then each measure with its interval."""
    rows = []
    for name, measured in results["measures"].items():
        row = {"router": name}
        for key in ("aiq", "gap_closed", "cost_at_97.25%_quality", "quality_at_24.18%_cost"):
            row[key] = interval_text(measured[key], share=key != "aiq")
        row["aiq_over"] = (
            "" if name == "mixllm" else interval_text(measured["aiq_over"], share=False)
        )
        rows.append(row)
    return rows


def interval_text(cell: dict[str, float | None], share: bool) -> str:
    """ "0.812 [0.801, 0.823]", or in per cent; a dash where the value is never reached."""

    def shown(value: float) -> str:
        return f"{100 * value:.1f} %" if share else f"{value:.4f}"

    if cell["value"] is None:
        return "–"
    if cell["low"] is None or cell["high"] is None:
        return shown(cell["value"])
    return f"{shown(cell['value'])} [{shown(cell['low'])}, {shown(cell['high'])}]"


def headline(results: dict[str, Any]) -> dict[str, float]:
    """The router's own measures as plain numbers; what is never reached is left out."""
    names = {
        "aiq": "aiq",
        "gap_closed": "gap_closed",
        "cost_at_97.25%_quality": "cost_share_at_97_quality",
        "quality_at_24.18%_cost": "quality_share_at_24_cost",
    }
    measured = results["measures"]["mixllm"]
    values = {name: measured[key]["value"] for key, name in names.items()}
    return {name: value for name, value in values.items() if value is not None}
