"""What an evaluation set must hold before anything is learned from it: checked first, all at once.

A training takes minutes; what it would fail on, or measure nothing by, is said before it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from models.data.evaluation_set import EvaluationSet, comparable, is_test_query
from models.errors import EvaluationSetError
from models.evaluation.measures import LEAST_TEST_QUERIES

# Recipes are chosen on five folds: ten queries in each are the fewest whose mean says anything.
LEAST_TRAINING_QUERIES: Final = 50
# A candidate of its own is fitted on five folds too; below two outcomes a fold nothing is held out.
LEAST_OUTCOMES: Final = 10
# Mean costs nearer to each other than this share are the same cost.
SAME_COST: Final = 1e-9


def training_split(data: EvaluationSet) -> tuple[EvaluationSet, EvaluationSet, list[str]]:
    """(training set, test set, notes) of a set that a router can be trained on and measured by.

    Raises EvaluationSetError naming everything that is missing.
    """
    test = data.queries["query_id"].map(is_test_query).to_numpy(dtype=bool)
    parts = data.where(~test), data.where(test)
    return *parts, check_training(*parts, f"the standard split of {data.name}")


def check_training(training: EvaluationSet, test: EvaluationSet, name: str) -> list[str]:
    """Whether a router can be trained on the one and measured by the other; returns notes.

    name: of the data, for the error. Raises EvaluationSetError naming everything that is missing.
    """
    missing = [
        *too_few("training", training, LEAST_TRAINING_QUERIES),
        *too_few("test", test, LEAST_TEST_QUERIES),
    ]
    if len(training.queries) and len(test.queries):
        try:
            names, kept, _ = comparable(training, test)
        except EvaluationSetError as error:
            missing.append(str(error))
        else:
            if not missing:
                missing += too_few("test", kept, LEAST_TEST_QUERIES, " with every LLM's outcome")
            missing += flat_quality("training", training, names)
            missing += flat_quality("test", kept, names)
            missing += flat_cost(training, names)
    if missing:
        raise EvaluationSetError(said(f"{name} is not enough to train a router", missing))
    return notes_on(training, test)


def check_tags(training: EvaluationSet) -> None:
    """Whether tags of these queries can be clustered and judged. Raises EvaluationSetError."""
    missing = too_few("training", training, LEAST_TRAINING_QUERIES)
    if missing:
        raise EvaluationSetError(said(f"{training.name} is not enough to audit tags", missing))


def check_candidate(name: str, data: EvaluationSet) -> None:
    """Whether one candidate's predictor can be fitted. Raises CatalogError, EvaluationSetError."""
    data.catalog.get(name)  # a name it does not have is an error that gives the nearest
    ids = data.outcomes.loc[data.outcomes["llm"] == name, "query_id"]
    training = int((~ids.map(is_test_query).astype(bool)).sum()) if len(ids) else 0
    count = training or len(ids)
    if count < LEAST_OUTCOMES:
        kind = "training outcome" if count else "outcome"
        raise EvaluationSetError(
            f"{data.name}: {name!r} has {counted(count, kind)}; its predictor needs at least "
            f"{LEAST_OUTCOMES}"
        )


def counted(count: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def said(head: str, missing: Sequence[str]) -> str:
    """One line for one reason, a list for more."""
    if len(missing) == 1:
        return f"{head}: {missing[0]}"
    return f"{head}:\n  " + "\n  ".join(missing)


def too_few(kind: str, part: EvaluationSet, least: int, which: str = "") -> list[str]:
    """Queries that repeat another's text are counted once: they teach and measure nothing more."""
    total, distinct = len(part.queries), int(part.queries["query"].nunique())
    if distinct >= least:
        return []
    repeated = f" of different text (of {total})" if distinct < total else ""
    return [f"{counted(distinct, f'{kind} query')}{repeated}{which}, at least {least} are needed"]


def flat_quality(kind: str, part: EvaluationSet, names: Sequence[str]) -> list[str]:
    quality = part.matrix("quality", list(names))
    values = np.unique(quality[np.isfinite(quality)])
    if len(values) > 1:
        return []
    value = f"{values[0]:g}" if len(values) else "missing"
    return [f"the quality of every {kind} outcome is {value}, so no LLM is better than another"]


def flat_cost(training: EvaluationSet, names: Sequence[str]) -> list[str]:
    """Equal mean costs leave nothing to trade quality against, and no range to measure over."""
    means = np.nanmean(training.matrix("cost_usd", list(names)), axis=0)
    if means.max() - means.min() > SAME_COST * means.max():
        return []
    return [
        f"every LLM costs the same ({means.max():g} USD a query), so there is nothing to trade "
        "quality against; check cost_usd and the prices in catalog.yaml"
    ]


def notes_on(training: EvaluationSet, test: EvaluationSet) -> list[str]:
    """What does not stop a training, but should be known when its figures are read."""
    notes = []
    seen = int(test.queries["query"].isin(set(training.queries["query"])).sum())
    if seen:
        notes.append(
            f"{seen} of {counted(len(test.queries), 'test query')} are training queries too, so the "
            "measures flatter the router"
        )
    repeated = len(training.queries) - int(training.queries["query"].nunique())
    if repeated:
        notes.append(f"{counted(repeated, 'training query')} with the text of another")
    sources = training.queries["source"].unique()
    if len(sources) == 1 and sources[0] != "unknown":
        notes.append(f"every query is of the source {sources[0]!r}; others may be routed worse")
    return notes
