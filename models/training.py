"""Training steps that flows and the evaluation share: a candidate's rows, its fit, the λ to sweep."""

from __future__ import annotations

import numpy as np

from models.evaluation_set import EvaluationSet
from models.inputs import QueryInputs
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
