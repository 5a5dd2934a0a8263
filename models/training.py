"""Training steps that flows and the evaluation share: rows per candidate, fit, decision defaults."""

from __future__ import annotations

import numpy as np

from models.catalog import Catalog
from models.compiled import CompiledPredictors
from models.decision import DecisionDefaults, score
from models.evaluation_set import EvaluationSet
from models.inputs import QueryInputs
from models.measures import QUALITY_SHARE
from models.predictors import Outcomes, Predictor

# How many settings of the willingness to pay a sweep tries.
SWEEP: int = 60


def fit_predictor(llm: str, data: EvaluationSet, inputs: QueryInputs, encoder: str) -> Predictor:
    """Fit one candidate's predictor on the queries it answered.

    inputs: the rows of ``data.queries``. encoder: the digest of the encoder that embedded them.
    """
    entry = data.catalog.get(llm)
    rows = data.outcomes[data.outcomes["llm"] == llm].set_index("query_id")
    answered = data.queries["query_id"].isin(rows.index).to_numpy()
    rows = rows.loc[data.queries.loc[answered, "query_id"]]
    outcomes = Outcomes(
        quality=rows["quality"].to_numpy(np.float64),
        prompt_tokens=rows["prompt_tokens"].to_numpy(np.float64),
        response_tokens=rows["response_tokens"].to_numpy(np.float64),
        cost_usd=rows["cost_usd"].to_numpy(np.float64),
    )
    predictor = Predictor(llm, encoder, entry.input_price, entry.output_price)
    return predictor.fit(inputs[answered], outcomes)


def willingness_grid(cost: np.ndarray) -> np.ndarray:
    """Settings of λ (USD per unit of quality) from "cost is all" to "quality is all".

    cost: (n, L) USD on training queries, NaN where unknown.
    """
    typical = float(np.nanmedian(cost[cost > 0])) if (cost > 0).any() else 1e-6
    dearest = float(np.nanmax(np.nanmean(cost, axis=0))) or typical
    inner = np.geomspace(typical / 20, max(dearest, typical) * 200, SWEEP)
    return np.concatenate([[typical / 1e9], inner, [dearest * 1e9]])


def leave_one_out(
    predictors: list[Predictor], data: EvaluationSet
) -> tuple[np.ndarray, np.ndarray]:
    """(quality, response tokens), each (n, L): predictions of training rows by models that did not
    see them; NaN where the candidate gave no outcome."""
    answered = ~np.isnan(data.matrix("quality", [p.llm for p in predictors]))
    quality = np.full(answered.shape, np.nan)
    tokens = np.full(answered.shape, np.nan)
    for i, predictor in enumerate(predictors):
        quality[answered[:, i], i] = predictor.leave_one_out_quality_
        tokens[answered[:, i], i] = predictor.leave_one_out_tokens_
    return quality, tokens


def choose_defaults(
    predictors: list[Predictor], data: EvaluationSet, inputs: QueryInputs, catalog: Catalog
) -> DecisionDefaults:
    """Decision defaults with the least willingness to pay that keeps quality.

    Least λ at which, by leave-one-out predictions of the training rows, the chosen candidates'
    quality is 97.25 % of the best single candidate's; the best-quality λ where none is.
    predictors: just fitted on ``data``. inputs: its queries' inputs.
    """
    names = [p.llm for p in predictors]
    true_quality, true_cost = data.matrix("quality", names), data.matrix("cost_usd", names)
    # The candidates that answered nearly everything set the aim, on the queries they all answered.
    wide = (
        np.mean(~np.isnan(true_quality), axis=0)
        >= 0.9 * np.mean(~np.isnan(true_quality), axis=0).max()
    )
    rows = ~np.isnan(true_quality[:, wide]).any(axis=1)
    quality, tokens = leave_one_out(predictors, data)
    kept = [p for p, w in zip(predictors, wide, strict=True) if w]
    compiled = CompiledPredictors(kept, catalog)
    estimates = compiled.estimate_from(inputs[rows], quality[rows][:, wide], tokens[rows][:, wide])
    truth = true_quality[rows][:, wide]
    aim = QUALITY_SHARE * truth.mean(axis=0).max()
    reached: list[tuple[float, float]] = []
    for wtp in willingness_grid(true_cost[rows][:, wide])[1:-1]:
        defaults = DecisionDefaults(willingness_to_pay=float(wtp))
        choice = np.argmax(score(estimates, defaults).total, axis=1)
        got = float(truth[np.arange(len(truth)), choice].mean())
        if got >= aim:
            return defaults
        reached.append((got, float(wtp)))
    return DecisionDefaults(willingness_to_pay=max(reached)[1])
