"""The gate at work: a release's figures beside the champion's, judged, and noted on its version."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from sqlalchemy import Engine

from infra.registry import VERDICT_TAG, Registry
from infra.settings import Settings
from infra.training_steps import embed
from models.errors import ReleaseError
from models.evaluation_set import EvaluationSet, read_evaluation_set
from models.inputs import QueryInputs, read_queries
from models.perturbations import PERTURBATIONS
from models.release import PROBE_FILES, Release
from models.release_gate import (
    MEMORY_TOLERANCE,
    Check,
    Slice,
    Verdict,
    aged,
    agreement_check,
    choices,
    gate_table,
    latency_check,
    ratio_check,
    robustness_check,
    worth_check,
)
from monitoring.alert_log import note
from monitoring.offpolicy import compare_releases

SLICE: Final = 1000
PERTURBED: Final = 150
TIMED: Final = 100


@dataclass(frozen=True)
class Sides:
    """A release and the champion, loaded, each with its folder."""

    folders: tuple[Path, Path]
    releases: tuple[Release, Release]

    @classmethod
    def of(cls, registry: Registry, version: str, against: str) -> Sides:
        folders = registry.fetch(version), registry.fetch(against)
        return cls(folders, (Release.load(folders[0]), Release.load(folders[1])))

    def choices(self, i: int, inputs: QueryInputs) -> list[str]:
        """Whom the release (0) or the champion (1) chooses."""
        release = self.releases[i]
        return choices(release.compiled, release.manifest.defaults, inputs)

    @property
    def probes(self) -> dict[str, list[str]]:
        """The champion's: queries, and the llms that it chose."""
        where = self.releases[1].manifest.probes.folder
        found: dict[str, list[str]] = json.loads(
            (self.folders[1] / where / PROBE_FILES[0]).read_text()
        )
        return found

    @property
    def gone(self) -> set[str]:
        """The champion's candidates that the release has not."""
        return {*self.releases[1].candidates} - {*self.releases[0].candidates}

    @property
    def same_encoder(self) -> bool:
        ours, theirs = (release.manifest.encoder for release in self.releases)
        return ours.encoder == theirs.encoder


def judge_release(
    registry: Registry,
    engine: Engine,
    settings: Settings,
    version: str,
    against: str,
    data: Path | None = None,
    moved: Mapping[str, float] | None = None,
    after_vote: int = 0,
    alert_id: int | None = None,
) -> Verdict:
    """Measure, judge, note the verdict on the version in MLflow and in the audit.

    data: the evaluation set whose test queries are the frozen slice; the configured one by default.
    moved: candidate → by how much its quality has been seen to change since those were answered.
    after_vote: only votes after this one are evaluated off-policy.
    Raises NoRelease, RegistryError, ReleaseError, EvaluationSetError.
    """
    sides = Sides.of(registry, version, against)
    meant = sides.gone | set(moved or {})
    checks = [*probe_checks(sides, meant), *speed_checks(sides)]
    checks.append(offpolicy_check(registry, engine, version, against, after_vote))
    where = data or settings.data
    if where is None:
        why = "no evaluation set: set MIXLLM_DATA to the folder of one"
        names = ("worth on the frozen slice", "choices that stay when written otherwise")
        checks += [Check(name, None, None, "", None, why) for name in names]
    else:
        checks += slice_checks(sides, read_evaluation_set(where).split()[1], settings, moved or {})
    verdict = Verdict(version, against, checks)
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "gate.json", Path(name) / "gate.md"]
        files[0].write_text(json.dumps(verdict.record(), indent=1) + "\n")
        files[1].write_text(gate_table(verdict) + "\n")
        tags = {
            VERDICT_TAG: verdict.word,
            "gate.against": against,
            "gate.why": verdict.why,
            "gate.figures": verdict.figures,
        }
        registry.note_evaluation(version, "gate", files, tags)
    why = f"release {version} would take the place of {against}"
    note(engine, "judge release", why, verdict.why, alert_id, verdict.record())
    return verdict


def probe_checks(sides: Sides, meant: Collection[str]) -> list[Check]:
    """The stored probes of each side: the release's route here as they did, and much as the champion.

    meant: the champion's choices that are to change.
    """
    release, stored = sides.releases[0], sides.probes
    try:
        release.check_probes(sides.folders[0])
        own = Check("its own probes", None, 1.0, "as stored", True)
    except ReleaseError as error:
        own = Check("its own probes", None, 0.0, "as stored", False, str(error))
    inputs = read_queries(stored["queries"], release.encoder)
    chosen, what = sides.choices(0, inputs), "the champion's probes"
    return [own, agreement_check(chosen, stored["llms"], what, meant)]


def speed_checks(sides: Sides) -> list[Check]:
    """Seconds of routing one query, both sides in turns; bytes that each holds in memory."""
    queries = sides.probes["queries"]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(TIMED + 2):
        for i in (0, 1) if number % 2 else (1, 0):
            begun = time.perf_counter()
            sides.releases[i].route(queries[number % len(queries)])
            seconds[i].append(time.perf_counter() - begun)
    release, champion = (np.array(part[2:]) for part in seconds)
    sizes = [
        (sum(side.compiled.memory) + encoder_bytes(folder)) / 2**20
        for side, folder in zip(sides.releases, sides.folders, strict=True)
    ]
    return [
        latency_check(release, champion),
        ratio_check("memory", sizes[0], sizes[1], MEMORY_TOLERANCE, "MiB"),
    ]


def encoder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "encoder").rglob("*.onnx"))


def offpolicy_check(
    registry: Registry, engine: Engine, version: str, against: str, after_vote: int
) -> Check:
    """By the votes on logged decisions."""
    name, allowed = "off-policy gain", "not worse"
    try:
        found = compare_releases(registry, engine, version, against, after_vote)
    except ReleaseError as error:
        return Check(name, None, None, allowed, None, str(error))
    if found is None or found["verdict"] == "unknown":
        return Check(name, None, None, allowed, None, "the log cannot tell")
    gain = found["gain"]
    told = f"{found['verdict']} [{gain['low']:+.4f}, {gain['high']:+.4f}], {found['votes']} votes"
    return Check(name, 0.0, gain["value"], allowed, found["verdict"] != "worse", told)


def slice_checks(
    sides: Sides, test: EvaluationSet, settings: Settings, moved: Mapping[str, float]
) -> list[Check]:
    """On queries that no release was trained on."""
    some = np.zeros(len(test.queries), dtype=bool)
    some[np.random.default_rng(0).permutation(len(some))[:SLICE]] = True
    test = test.where(some)
    queries = test.queries["query"].tolist()
    written, kinds = rewritten(queries[:PERTURBED])
    read = embedded_by_both(sides, [*queries, *written], settings)
    chosen = [sides.choices(i, read[i]) for i in (0, 1)]
    names = test.candidates
    known = Slice(names, test.matrix("quality", names), test.matrix("cost_usd", names))
    n, m = len(queries), len(queries) + len(written)
    stays = [staying(part[n:m], part[:n], kinds) for part in chosen]
    mine, other = (float(np.mean(list(part.values()))) for part in stays)
    return [
        worth_check(
            aged(known, moved),
            chosen[0][:n],
            chosen[1][:n],
            sides.releases[1].manifest.defaults.willingness_to_pay,
        ),
        agreement_check(chosen[0][:n], chosen[1][:n], "the frozen slice", sides.gone | set(moved)),
        robustness_check(mine, other, stays[0]),
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
    found = {
        kind: float(np.mean([written[i] == as_they_are[j] for i, j in pairs]))
        for kind, pairs in kinds.items()
    }
    return found or {"nothing to change": 1.0}


def embedded_by_both(sides: Sides, queries: list[str], settings: Settings) -> list[QueryInputs]:
    """Inputs of the queries by each side's encoder; from the cache where it has them."""
    read = [embed(queries, sides.folders[0] / "encoder", settings)]
    if sides.same_encoder:
        return [*read, read[0]]
    return [*read, embed(queries, sides.folders[1] / "encoder", settings)]
