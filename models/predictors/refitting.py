"""Refitting predictors from feedback: graded answers and measured tokens become training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from models.data.evaluation_set import EvaluationSet
from models.data.validation import complete
from models.encoder.inputs import QueryInputs
from models.predictors.predictor import Predictor

SOURCE: Final = "feedback"
SEEN: Final = "feedback_upto"
# A predictor is due once this many graded rows have come, or this share of what it was fitted on.
LEAST_ROWS: Final = 100
LEAST_SHARE: Final = 0.1
# Answers that a predictor's being right already counts for, where it is recalibrated.
CALIBRATION_ROWS: Final = 10.0
SMALLEST_VARIANCE: Final = 1e-4


@dataclass(frozen=True)
class GradedAnswers:
    """n answers whose quality somebody graded. ids: (n,) of their decisions. llms: (n,). inputs: the n
    queries as predictors read them. cost_usd: NaN where only prices tell."""

    ids: Sequence[str]
    llms: Sequence[str]
    inputs: QueryInputs
    quality: np.ndarray
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    cost_usd: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, keep: np.ndarray) -> GradedAnswers:
        """Those that a boolean mask keeps."""
        rows = np.flatnonzero(keep)
        return GradedAnswers(
            [self.ids[i] for i in rows.tolist()],
            [self.llms[i] for i in rows.tolist()],
            self.inputs[rows],
            self.quality[rows],
            self.prompt_tokens[rows],
            self.response_tokens[rows],
            self.cost_usd[rows],
        )

    def counts(self) -> dict[str, int]:
        """Candidate → how many."""
        names, numbers = np.unique(np.array(self.llms, dtype=object), return_counts=True)
        return {str(n): int(c) for n, c in zip(names, numbers, strict=True)}


def due(
    answers: Mapping[str, int], fitted: Mapping[str, float], enough: int | None = None
) -> list[str]:
    """Whose predictor is to be refitted. answers: candidate → graded rows that its predictor has not
    seen; fitted: candidate → rows it was fitted on; enough: how many, whatever it was fitted on."""

    def needed(rows: float) -> float:
        return max(LEAST_ROWS, LEAST_SHARE * rows) if enough is None else enough

    return [name for name, rows in fitted.items() if answers.get(name, 0) >= needed(rows)]


def refitted(old: Predictor, new: Predictor, upto: float) -> Predictor:
    """A refit as it takes the old one's place. upto: how far into the log it has seen.

    Its mean quality stays the old one's: graded answers are of the queries that the router chose it
    for, easy ones for a cheap candidate, and their mean says nothing of all queries; shrinkage would
    take it for that.
    """
    kept = {"mean_quality": old.metrics["mean_quality"], SEEN: upto}
    return replace(new, metrics={**new.metrics, **kept})


def recalibrated(old: Predictor, answers: GradedAnswers, upto: float) -> Predictor:
    """The old predictor moved to where a candidate's newest answers lie: for one that has changed, of
    which the old outcomes no longer tell.

    Its quality becomes a line of itself and its log length is shifted, both fitted by ridge regression
    towards staying as they are, as if ``CALIBRATION_ROWS`` answers had confirmed them. The mean quality
    moves along. answers: of this candidate. upto: how far into the log it has seen.
    """
    quality, tokens, _ = old.predict(answers.inputs)
    middle = float(quality.mean())
    x = quality - middle
    off = answers.quality - quality
    shift = float(off.sum() / (len(off) + CALIBRATION_ROWS))
    spread = CALIBRATION_ROWS * max(float(x.var()), SMALLEST_VARIANCE)
    slope = 1.0 + float(x @ off) / (float(x @ x) + spread)
    slope = min(max(slope, 0.0), 2.0)
    longer = np.log1p(answers.response_tokens) - np.log1p(tokens)
    longer_by = float(longer.sum() / (len(longer) + CALIBRATION_ROWS))
    scale = np.array([slope, 1.0])
    offset = middle + shift - slope * middle
    return replace(
        old,
        weights={
            family: (found * scale).astype(found.dtype) for family, found in old.weights.items()
        },
        intercepts=(offset + slope * old.intercepts[0], old.intercepts[1] + longer_by),
        metrics={
            **old.metrics,
            "mean_quality": min(max(offset + slope * old.metrics["mean_quality"], 0.0), 1.0),
            SEEN: upto,
        },
    )


def with_answers(
    data: EvaluationSet, inputs: QueryInputs, answers: GradedAnswers
) -> tuple[EvaluationSet, QueryInputs]:
    """An evaluation set's rows, then the graded answers', as predictors are fitted on.

    The queries of the answers have no text: predictors read their ``inputs``.
    """
    queries = pd.DataFrame({"query_id": list(answers.ids), "query": "", "source": SOURCE})
    outcomes = pd.DataFrame(
        {
            "query_id": list(answers.ids),
            "llm": list(answers.llms),
            "quality": answers.quality,
            "prompt_tokens": answers.prompt_tokens,
            "response_tokens": answers.response_tokens,
            "cost_usd": answers.cost_usd,
            "latency_seconds": np.nan,
        }
    )
    joined = EvaluationSet(
        queries=pd.concat([data.queries, queries], ignore_index=True),
        outcomes=pd.concat([data.outcomes, complete(outcomes, data.catalog)], ignore_index=True),
        catalog=data.catalog,
        name=f"{data.name} and {len(answers)} graded answers",
        notes=data.notes,
    )
    unread = None
    if inputs.unread is not None:  # the encoder's tuning learned from no answer
        unread = np.concatenate([inputs.unread, np.ones(len(answers), dtype=bool)])
    both = QueryInputs(
        np.concatenate([inputs.embeddings, answers.inputs.embeddings]),
        np.concatenate([inputs.forms, answers.inputs.forms]),
        np.concatenate([inputs.tokens, answers.inputs.tokens]),
        unread,
    )
    return joined, both
