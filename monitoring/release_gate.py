"""The gate at work: a release's figures beside the champion's, judged, and noted on its version."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine, func, select

from infra.known_data import recall, remember
from infra.registry.publish import code_revision
from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.training.steps import embed
from models.catalog import Catalog, read_catalog
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set
from models.encoder.inputs import QueryInputs, read_queries
from models.errors import EvaluationSetError, ReleaseError
from models.queries.perturbations import PERTURBATIONS
from models.release.gate.checks import (
    AGREEMENT,
    CHAMPION_PROBES,
    EVALUATION,
    FAILS,
    MEMORY,
    ROBUSTNESS,
    WORTH,
    Check,
    first_release,
    not_measured,
)
from models.release.gate.operation import (
    MEMORY_TOLERANCE,
    callable_check,
    latency_check,
    offpolicy_check,
    probes_check,
    ratio_check,
)
from models.release.gate.outcomes import (
    Slice,
    aged,
    agreement_check,
    choices,
    evaluation_check,
    robustness_check,
    worth_check,
)
from models.release.gate.table import gate_table
from models.release.gate.verdict import JudgedData, Verdict, settled
from models.release.manifest import read_manifest
from models.release.release import Release
from monitoring.learning.off_policy import compare_releases
from monitoring.store.audit import note
from monitoring.store.locks import exclusive
from monitoring.store.tables import feedback

SLICE: Final = 1000
PERTURBED: Final = 150
# Pairs of routings that are timed, and how often at most: a machine may be busy for a while.
TIMED: Final = 100
ROUNDS: Final = 3
SPLIT: Final = "its test queries (one in five, by id)"


@dataclass(frozen=True)
class Side:
    """A release, loaded, with its folder."""

    version: str
    folder: Path
    release: Release

    @classmethod
    def of(cls, registry: Registry, version: str) -> Side:
        folder = registry.fetch(version)
        return cls(version, folder, Release.load(folder))

    @property
    def catalog(self) -> Catalog:
        return self.release.manifest.catalog

    def choices(self, inputs: QueryInputs) -> list[str]:
        """Whom it chooses."""
        return choices(self.release.compiled, self.release.manifest.defaults, inputs)

    def probes(self) -> dict[str, list[str]]:
        """Its stored queries, and the llms that it chose."""
        return self.release.stored_probes(self.folder)[0]

    def seconds(self, query: str) -> float:
        """What routing a query takes."""
        begun = time.perf_counter()
        self.release.route(query)
        return time.perf_counter() - begun

    @property
    def mebibytes(self) -> float:
        """What it holds in memory."""
        encoder = sum(file.stat().st_size for file in (self.folder / "encoder").rglob("*.onnx"))
        return (sum(self.release.compiled.memory) + encoder) / 2**20


def judge_release(
    registry: Registry,
    engine: Engine,
    settings: Settings,
    version: str,
    against: str | None,
    data: Path | None = None,
    moved: Mapping[str, float] | None = None,
    after_vote: int = 0,
    alert_id: int | None = None,
    changed: str = "",
) -> Verdict:
    """Measure, judge, and add the verdict to the release's history in MLflow and to the audit.

    against: the champion; None for a first release.
    data: the evaluation set whose test queries are used; see ``data_for`` for the default.
    moved: candidate → by how much its quality has been seen to change since those were answered.
    after_vote: only votes after this one are evaluated off-policy.
    changed: what somebody says has changed since the verdict before.
    Raises NoRelease, RegistryError, ReleaseError, EvaluationSetError.
    """
    moved = moved or {}
    with exclusive(engine, f"judge release {version}"):
        history = registry.verdicts(version)
        release = Side.of(registry, version)
        champion = Side.of(registry, against) if against is not None else None
        local = read_catalog(settings.catalog) if settings.catalog is not None else None
        disabled = registry.disabled()
        whole, missing = data_for(registry, settings, version, against, data)
        checks = [
            callable_check(
                release.catalog, champion.catalog if champion else None, local, disabled
            ),
            own_probes_check(release),
        ]
        gone: set[str] = set()
        if champion is not None:
            gone = {*champion.release.candidates} - {*release.release.candidates}
            checks.append(champion_probes_check(release, champion, gone | set(moved)))
            checks += speed_checks(release, champion)
            checks.append(votes_check(registry, engine, version, champion.version, after_vote))
        judged = None
        if whole is not None:
            try:
                test, judged = test_queries(whole)
            except EvaluationSetError as error:
                missing = str(error)
        if judged is None:
            checks.append(not_measured(EVALUATION, missing))
            if champion is not None:
                checks += [not_measured(name, missing) for name in (WORTH, AGREEMENT, ROBUSTNESS)]
        else:
            aiq = registry.tags(version).get("metric.aiq")
            checks += slice_checks(
                release, champion, test, settings, moved, float(aiq) if aiq else None
            )
        if champion is None:
            checks += first_release(checks)
        inputs = {
            "champion": champion.release.digest if champion else None,
            "data": judged.digest if judged else None,
            "moved": dict(moved),
            "disabled": sorted(disabled),
            "LLMs that can be called": [c.reason for c in checks[:1]],
            "votes": last_vote(engine),
            "code": code_revision(),
        }
        verdict = settled(Verdict(version, against, checks, judged, inputs), history, changed)
        keep(registry, verdict)
    why = f"release {version} would take the place of {against}"
    if against is None:
        why = f"release {version} would be the first champion"
    note(engine, "judge release", why, verdict.reason, alert_id, verdict.record())
    return verdict


def callable_now(
    registry: Registry, settings: Settings, version: str, against: str | None
) -> Check:
    """Whether an LLM of the release can be called as things are; a verdict may be older.

    Raises NoRelease, RegistryError, ReleaseError, CatalogError.
    """
    local = read_catalog(settings.catalog) if settings.catalog is not None else None
    catalogs = [
        read_manifest(registry.fetch(name)).catalog if name is not None else None
        for name in (version, against)
    ]
    assert catalogs[0] is not None
    return callable_check(catalogs[0], catalogs[1], local, registry.disabled())


def standing_verdict(registry: Registry, version: str) -> dict[str, Any] | None:
    """The verdict that counts for a release: the last one against the champion of now.

    Raises NoRelease.
    """
    history = registry.verdicts(version)
    if not history or history[-1]["against"] != registry.alias(CHAMPION):
        return None
    return history[-1]


def keep(registry: Registry, verdict: Verdict) -> None:
    """Add a verdict to the release's history."""
    record = {
        "number": verdict.number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": verdict.word,
        "measured": verdict.measured,
        "failed": verdict.failed,
        "against": verdict.against,
        "reason": verdict.reason,
        "changed": verdict.changed,
        "data": asdict(verdict.data) if verdict.data else None,
        "inputs": dict(verdict.inputs),
    }
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "gate.json", Path(name) / "gate.md"]
        files[0].write_text(json.dumps(verdict.record(), indent=1) + "\n")
        files[1].write_text(gate_table(verdict) + "\n")
        registry.add_verdict(verdict.version, record, files, verdict.figures)


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
        missing += f" ({name}, digest {digest}, is not where it was, or has changed)"
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


def last_vote(engine: Engine) -> int:
    """The position of the newest vote, 0 without one."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.max(feedback.c.position))).scalar() or 0)


def own_probes_check(release: Side) -> Check:
    """The stored probes: the release routes here as it did."""
    try:
        release.release.check_probes(release.folder)
    except ReleaseError as error:
        return probes_check(str(error))
    return probes_check(None)


def champion_probes_check(release: Side, champion: Side, meant: Collection[str]) -> Check:
    """The champion's stored queries. meant: its choices that are to change."""
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


def test_queries(whole: EvaluationSet) -> tuple[EvaluationSet, JudgedData]:
    """Up to ``SLICE`` of the queries that no release was trained on, the same ones each time."""
    test = whole.split()[1]
    some = np.zeros(len(test.queries), dtype=bool)
    some[np.random.default_rng(0).permutation(len(some))[:SLICE]] = True
    used = test.where(some)
    return used, JudgedData(
        whole.name, whole.digest, SPLIT, len(used.queries), len(some), len(used.outcomes)
    )


def slice_checks(
    release: Side,
    champion: Side | None,
    test: EvaluationSet,
    settings: Settings,
    moved: Mapping[str, float],
    aiq: float | None,
) -> list[Check]:
    """On queries that no release was trained on."""
    queries = test.queries["query"].tolist()
    written, kinds = rewritten(queries[:PERTURBED])
    names = test.candidates
    outcomes = Slice(names, test.matrix("quality", names), test.matrix("cost_usd", names))
    n, m = len(queries), len(queries) + len(written)
    inputs = embed([*queries, *written], release.folder / "encoder", settings)
    mine = release.choices(inputs)
    evaluation = evaluation_check(outcomes, mine[:n], aiq)
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


def same_encoder(first: Side, second: Side) -> bool:
    return first.release.manifest.encoder.encoder == second.release.manifest.encoder.encoder


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
