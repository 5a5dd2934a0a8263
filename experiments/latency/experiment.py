"""The latency experiment: the champion under traffic, simulated and against a live fleet over HTTP.

Live, a service of its own runs on a copy of the release whose times, catalog and defaults, are scaled
by ``speed``, in front of a simulated fleet that is as much faster; requests are sent when they
arrive, whatever became of those before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.latency.live import LiveRun, Progress
from experiments.latency.simulation import (
    BETAS,
    Workload,
    area,
    curve,
    poisson_arrivals,
    simulate,
    summarise,
)
from infra.registry.registry import Registry
from infra.settings import Settings
from models.data.evaluation_set import EvaluationSet
from models.encoder.cache import EmbeddingCache
from models.encoder.inputs import read_queries
from models.errors import NoRelease
from models.evaluation.willingness import willingness_grid
from models.release.manifest import read_manifest
from models.release.release import Release

# Every third setting of the evaluation's grid.
THIN: Final = 3
GAMMAS: Final = (0.1, 0.25, 0.5, 1.0, 2.0)
SHARES: Final = (0.5, 0.6, 0.7, 0.8, 0.9)


def champion_of(registry: Registry, data: EvaluationSet) -> Path:
    """The champion's folder. Raises NoRelease where it was not trained on this set's other half."""
    version = registry.champion()
    folder = registry.fetch(version)
    found = read_manifest(folder).data
    if found.digest != data.split()[0].digest:
        raise NoRelease(
            f"the champion, release {version}, was trained on {found.name!r}, not on the training "
            f"queries of {data.name!r}: mixllm train --data DIR --promote"
        )
    return folder


def workload_of(
    folder: Path,
    test: EvaluationSet,
    home: Path,
    arrivals: np.ndarray,
    concurrency: int,
    progress: Progress,
) -> tuple[Workload, EvaluationSet]:
    """The champion's estimates of the queries that arrive, beside the truth; and those queries.

    Only queries with an outcome of every candidate arrive, in the set's order, from the first again
    when they are at their end.
    """
    release = Release.load(folder, threads=2)
    names = release.candidates
    known = np.isfinite(test.matrix("quality", names)).all(axis=1)
    test = test.where(known)
    cache = EmbeddingCache(home / "embeddings", release.encoder)
    inputs = read_queries(test.queries["query"].tolist(), release.encoder, cache, progress)
    rows = np.arange(len(arrivals)) % len(test.queries)
    entries = [release.manifest.catalog.get(name) for name in names]
    first = np.array([entry.time_to_first_token for entry in entries])
    speed = np.array([entry.tokens_per_second for entry in entries])
    seconds = first + test.matrix("response_tokens", names) / speed
    measured = test.matrix("latency_seconds", names)
    workload = Workload(
        candidates=names,
        estimates=release.compiled.estimate(inputs)[rows],
        quality=test.matrix("quality", names)[rows],
        cost=test.matrix("cost_usd", names)[rows],
        seconds=np.where(np.isfinite(measured), measured, seconds)[rows],
        first_token=first,
        arrivals=arrivals,
        concurrency=concurrency,
    )
    return workload, test


@dataclass(frozen=True)
class Setting:
    """rate: queries a second. concurrency: of every LLM. time_limit: seconds. live: so many queries
    also over HTTP, speed times as fast."""

    rate: float
    queries: int
    concurrency: int
    time_limit: float
    live: int
    speed: float
    seed: int
    sweep: bool


def run(
    settings: Settings,
    folder: Path,
    data: EvaluationSet,
    setting: Setting,
    bar: Callable[[str, int], Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Everything the report shows. bar: (label, total) → a context whose value advances it."""
    training, test = data.split()
    arrivals = poisson_arrivals(setting.rate, setting.queries, setting.seed)
    with bar("embedding test queries", len(test.queries)) as advance:
        workload, test = workload_of(
            folder, test, settings.home, arrivals, setting.concurrency, advance
        )
    defaults = read_manifest(folder).defaults.model_copy(update={"time_limit": setting.time_limit})
    names = workload.candidates
    grid = willingness_grid(training.matrix("cost_usd", names))[::THIN]
    singles = workload.cost.mean(axis=0)
    low, high = float(singles.min()), float(singles.max())

    def simulated(**update: float) -> dict[str, Any]:
        rows = curve(workload, defaults.model_copy(update=update), grid)
        return {**update, "aiq": area(rows, low, high), "curve": rows}

    found: dict[str, Any] = {
        "set": data.name,
        "setting": {**asdict(setting), "candidates": len(names)},
        "defaults": defaults.model_dump(),
    }
    with bar("simulating", len(BETAS)) as advance:
        found["simulated"] = []
        for beta in BETAS:
            found["simulated"].append(simulated(beta=beta))
            advance(1)
    if setting.sweep:
        with bar("sweeping γ and ξ", len(GAMMAS) * len(SHARES)) as advance:
            found["sweep"] = []
            for gamma in GAMMAS:
                for share in SHARES:
                    row = simulated(gamma=gamma, time_share=share)
                    found["sweep"].append({k: v for k, v in row.items() if k != "curve"})
                    advance(1)
    if setting.live:
        part = workload.first(setting.live)
        middle = float(grid[len(grid) // 2])
        runs = [(beta, value) for beta in BETAS for value in (middle, float(grid[-1]))]
        found["live"] = []
        with (
            LiveRun(settings, folder, test, setting.concurrency, setting.speed, say) as service,
            bar("live", len(runs) * len(part)) as advance,
        ):
            texts = test.queries["query"].tolist()
            for beta, value in runs:
                wished = {"beta": beta, "willingness_to_pay": value}
                asked = defaults.model_copy(update=wished)
                real, ideal = service.send(part, texts, asked, advance), simulate(part, asked)
                told = {
                    name: summarise(served, names, setting.time_limit)
                    for name, served in (("simulated", ideal), ("live", real))
                }
                same = float(np.mean(real.picks == ideal.picks))
                found["live"].append({**wished, **told, "same_choice": same})
    return found


def write_report(found: dict[str, Any], folder: Path) -> None:
    """``latency.json``, ``latency.md``, ``latency.png``."""
    from experiments.latency.report import plot_traffic, traffic_table

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "latency.md").write_text(traffic_table(found) + "\n")
    plot_traffic(found, folder / "latency.png")
