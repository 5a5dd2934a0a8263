"""The evaluation set that a release is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from infra.known_data import recall, remember
from infra.registry.registry import Registry
from infra.settings import Settings
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set
from models.errors import EvaluationSetError
from models.release.gate.verdict import JudgedData

SLICE: Final = 1000
SPLIT: Final = "its test queries (one in five, by id)"


def data_for(
    registry: Registry, settings: Settings, version: str, against: str | None, given: Path | None
) -> tuple[EvaluationSet | None, str]:
    """The evaluation set to judge a release by, or why there is none.

    In this order: the one given, the one that the release was judged by last, ``MIXLLM_DATA``, the one
    that the champion was judged by.
    Raises EvaluationSetError where the one given or configured cannot be read.
    """
    own, champion = (
        [row["data"] for row in registry.verdicts(name)[-1:] if row["data"]] if name else []
        for name in (version, against)
    )
    judged = [*own, *champion]
    if given is not None:
        return known(settings, given), ""
    for row in own:
        if (again := unchanged(settings, row["digest"])) is not None:
            return again, ""
    if settings.data is not None:
        return known(settings, settings.data), ""
    for row in judged:
        if (again := unchanged(settings, row["digest"])) is not None:
            return again, ""
    missing = "no evaluation set: use --data DIR, or set MIXLLM_DATA"
    if judged:
        name, digest = judged[0]["name"], judged[0]["digest"][:12]
        missing += f" ({name}, digest {digest}, was moved or has changed)"
    return None, missing


def known(settings: Settings, folder: Path) -> EvaluationSet:
    """Read an evaluation set, and remember where it lies. Raises EvaluationSetError."""
    data = read_evaluation_set(folder)
    remember(settings.home, data.digest, folder)
    return data


def unchanged(settings: Settings, digest: str) -> EvaluationSet | None:
    """The evaluation set of that digest, where this machine has read it before and it is the same."""
    folder = recall(settings.home, digest)
    if folder is None:
        return None
    try:
        data = read_evaluation_set(folder)
    except (EvaluationSetError, OSError):
        return None
    return data if data.digest == digest else None


def test_queries(whole: EvaluationSet) -> tuple[EvaluationSet, JudgedData]:
    """Up to ``SLICE`` of the queries that no release was trained on, the same ones each time."""
    test = whole.split()[1]
    some = np.zeros(len(test.queries), dtype=bool)
    some[np.random.default_rng(0).permutation(len(some))[:SLICE]] = True
    used = test.where(some)
    return used, JudgedData(
        whole.name, whole.digest, SPLIT, len(used.queries), len(some), len(used.outcomes)
    )
