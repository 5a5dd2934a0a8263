"""The figures of a release beside the champion's, measured here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from sqlalchemy import Engine

from infra.registry.registry import Registry
from infra.settings import Settings
from infra.training.steps import embed
from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import read_queries
from models.errors import ReleaseError
from models.queries.perturbations import PERTURBATIONS
from models.release.gate.checks import (
    AGREEMENT,
    CHAMPION_PROBES,
    FAILS,
    MEMORY,
    Check,
)
from models.release.gate.operation import (
    MEMORY_TOLERANCE,
    latency_check,
    offpolicy_check,
    probes_check,
    ratio_check,
)
from models.release.gate.outcomes import (
    Slice,
    aged,
    agreement_check,
    evaluation_check,
    robustness_check,
    worth_check,
)
from monitoring.learning.off_policy import compare_releases
from monitoring.release_gate.side import Side, same_encoder

PERTURBED: Final = 150
# Pairs of routings that are timed, and how often at most: a machine may be busy for a while.
TIMED: Final = 100
ROUNDS: Final = 3


def own_probes_check(release: Side) -> Check:
    """The stored probes: the release routes here as it did."""
    try:
        release.release.check_probes(release.folder)
    except ReleaseError as error:
        return probes_check(str(error))
    return probes_check(None)


def champion_probes_check(release: Side, champion: Side, meant: Collection[str]) -> Check:
    """The champion's stored queries.

    meant: its choices that are to change.
    """
    stored = champion.probes()
    inputs = read_queries(stored["queries"], release.release.encoder)
    return agreement_check(CHAMPION_PROBES, release.choices(inputs), stored["llms"], meant)


def speed_checks(release: Side, champion: Side) -> list[Check]:
    """Seconds of routing one query, both in turns; what each holds in memory.

    A release that is too slow is timed again, up to ``ROUNDS`` times, and judged by all pairs.
    """
    queries = champion.probes()["queries"]
    pairs: list[tuple[float, float]] = []
    for side in (release, champion):  # the first routings warm up
        for query in queries[:2]:
            side.seconds(query)
    for _ in range(ROUNDS):
        for number in range(TIMED):
            query = queries[number % len(queries)]
            if number % 2:
                mine = release.seconds(query)
                pairs.append((mine, champion.seconds(query)))
            else:
                theirs = champion.seconds(query)
                pairs.append((release.seconds(query), theirs))
        seconds = np.array(pairs)
        latency = latency_check(seconds[:, 0], seconds[:, 1])
        if latency.state != FAILS:
            break
    memory = ratio_check(MEMORY, release.mebibytes, champion.mebibytes, MEMORY_TOLERANCE)
    return [latency, memory]


def votes_check(
    registry: Registry, engine: Engine, version: str, against: str, after_vote: int
) -> Check:
    """By the votes on logged decisions."""
    try:
        compared = compare_releases(registry, engine, version, against, after_vote)
    except ReleaseError as error:
        return offpolicy_check(None, str(error))
    return offpolicy_check(compared)


def slice_checks(
    release: Side,
    champion: Side | None,
    test: EvaluationSet,
    settings: Settings,
    moved: Mapping[str, float],
) -> list[Check]:
    """On queries that no release was trained on.

    moved: candidate → by how much its quality has been seen to change.
    """
    queries = test.queries["query"].tolist()
    written, kinds = rewritten(queries[:PERTURBED])
    names = test.candidates
    outcomes = Slice(names, test.matrix("quality", names), test.matrix("cost_usd", names))
    n, m = len(queries), len(queries) + len(written)
    inputs = embed([*queries, *written], release.folder / "encoder", settings)
    mine = release.choices(inputs)
    evaluation = evaluation_check(outcomes, mine[:n], release.aiq)
    if champion is None:
        return [evaluation]
    if not same_encoder(release, champion):
        inputs = embed([*queries, *written], champion.folder / "encoder", settings)
    theirs = champion.choices(inputs)
    stays = [staying(part[n:m], part[:n], kinds) for part in (mine, theirs)]
    shares = [float(np.mean(list(part.values()))) for part in stays]
    gone = {*champion.release.candidates} - {*release.release.candidates}
    wtp = champion.release.manifest.defaults.willingness_to_pay
    return [
        evaluation,
        worth_check(aged(outcomes, moved), mine[:n], theirs[:n], wtp),
        agreement_check(AGREEMENT, mine[:n], theirs[:n], gone | set(moved)),
        robustness_check(shares[0], shares[1], stays[0]),
    ]


def rewritten(queries: list[str]) -> tuple[list[str], dict[str, list[tuple[int, int]]]]:
    """(queries written otherwise, perturbation → (place among these, place among the queries))."""
    written: list[str] = []
    kinds: dict[str, list[tuple[int, int]]] = {}
    for kind, change in PERTURBATIONS.items():
        rng = np.random.default_rng(0)
        for place, query in enumerate(queries):
            if (other := change(query, rng)) != query:
                kinds.setdefault(kind, []).append((len(written), place))
                written.append(other)
    return written, kinds


def staying(
    written: list[str], as_they_are: list[str], kinds: Mapping[str, list[tuple[int, int]]]
) -> dict[str, float]:
    """Perturbation → the share of choices that it leaves as they are."""
    shares = {
        kind: float(np.mean([written[i] == as_they_are[j] for i, j in pairs]))
        for kind, pairs in kinds.items()
    }
    return shares or {"nothing to change": 1.0}
