"""How often alerts are false, and how soon true ones come: many seeded streams of windows.

    python -m experiments.studies.drift_alarms --data DIR --home DIR [--seeds 100] [--out FILE]

The first release of ``--home`` (trained on the set without ``--subject``) chooses for queries drawn from
those it was not trained on; the outcomes are real, votes come on a share of them. Without drift every
alert is false. With one thing changed from a window on: how many queries later its alert is raised.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.training.steps import embed
from models.data.files import read_evaluation_set
from models.decision.estimates import score
from models.domains.domains import Domains
from models.drift.alerts import raised, read_rules
from models.drift.signals import find_signals
from models.drift.windows import Window
from models.markdown_table import markdown_table
from models.release.manifest import read_manifest
from models.release.release import compiled_release
from monitoring.drift.window_rows import with_catalog

VOTES: Final = 0.5
CHANGE_AT: Final = 5
EMBEDDINGS: Final = 1000
RECENT: Final = 4


@dataclass(frozen=True)
class World:
    """Every query that may come, and what is known of it. rows: a row a query, as windows have them, for
    each of the L candidates: (n, L) where it depends on who is chosen."""

    names: list[str]
    total: np.ndarray
    columns: dict[str, np.ndarray]
    quality: np.ndarray
    tokens: np.ndarray
    cost: np.ndarray
    unseen: np.ndarray
    domain: np.ndarray
    embeddings: np.ndarray
    strange: np.ndarray
    source: np.ndarray
    catalog: Any


@lru_cache(maxsize=1)
def world(data: Path, home: Path, subject: str) -> World:
    settings = Settings(home=home)
    registry = Registry.of(settings)
    if registry.alias(CHAMPION) is None:
        raise SystemExit(f"{home} has no champion: benchmarks.drift_story --parts a makes one")
    folder = registry.fetch("1")
    manifest = read_manifest(folder)
    whole = read_evaluation_set(data)
    strange = (whole.queries["source"] == subject).to_numpy()
    test = whole.where(
        strange | whole.queries["query_id"].isin(whole.split()[1].queries["query_id"]).to_numpy()
    )
    compiled = compiled_release(folder)
    inputs = embed(test.queries["query"].tolist(), folder / "encoder", settings)
    estimates = compiled.estimate(inputs)
    domains = Domains.load(folder / manifest.domains.folder)
    names = compiled.candidates
    known = {c: test.matrix(c, names) for c in ("quality", "response_tokens", "cost_usd")}
    complete = np.isfinite(known["quality"])
    total = np.where(complete, score(estimates, manifest.defaults).total, -np.inf)
    unseen = domains.unseen_.score(inputs.embeddings)
    place = np.array([domains.names_[i] for i in domains.assign(inputs.embeddings)], dtype=object)
    source = test.queries["source"].to_numpy()
    return World(
        names=names,
        total=total,
        columns={
            "quality": estimates.quality,
            "cost_usd": estimates.cost,
            "seconds": estimates.time,
            "response_tokens": estimates.response_tokens,
            "uncertainty": estimates.uncertainty.astype(np.float64),
        },
        quality=known["quality"],
        tokens=known["response_tokens"],
        cost=known["cost_usd"],
        unseen=unseen,
        domain=np.where(unseen > 1, "unknown", place),
        embeddings=inputs.embeddings,
        strange=source == subject,
        source=source,
        catalog=manifest.catalog,
    )


@dataclass(frozen=True)
class Change:
    """What is otherwise from a window on. llm: the number of the candidate concerned."""

    worse: float = 0.0
    longer: float = 1.0
    slower: float = 1.0
    pull: float = 0.0
    waits: float = 1.0
    strange: float = 0.0
    only: str | None = None
    dearer: float = 1.0
    votes: float = 1.0


NOTHING: Final = Change()
CHANGES: Final[dict[str, tuple[str, Change]]] = {
    "quality of one LLM -0.2": ("predictor-drift", Change(worse=0.2)),
    "quality of one LLM -0.4": ("predictor-drift", Change(worse=0.4)),
    "tokens of one LLM x 1.5": ("predictor-drift", Change(longer=1.5)),
    "one LLM twice as slow": ("slower-than-foreseen", Change(slower=2.0)),
    "choices pulled to one LLM that waits": ("latency-cascade", Change(pull=0.5, waits=2.0)),
    "25 % of the queries of an unseen subject": ("unseen-domains", Change(strange=0.25)),
    "50 % of the queries of an unseen subject": ("unseen-domains", Change(strange=0.5)),
    "half of the queries of one known subject": ("query-drift", Change(only="math")),
    "answers cost 1.5 times as much": ("cost-above-forecast", Change(dearer=1.5)),
    "a third of the votes": ("feedback-drying-up", Change(votes=1 / 3)),
}


def draw(w: World, rng: np.random.Generator, count: int, change: Change) -> Window:
    """So many decisions, with what became of them."""
    usual, odd = np.flatnonzero(~w.strange), np.flatnonzero(w.strange)
    some = rng.choice(usual, size=count)
    if change.strange:
        some = np.where(rng.random(count) < change.strange, rng.choice(odd, size=count), some)
    if change.only:
        mine = np.flatnonzero(w.source == change.only)
        some = np.where(rng.random(count) < 0.5, rng.choice(mine, size=count), some)
    choice = np.argmax(w.total[some], axis=1)
    llm = int(np.bincount(np.argmax(w.total[usual], axis=1)).argmax())
    choice = np.where(rng.random(count) < change.pull, llm, choice)
    mine = choice == llm
    quality, tokens = w.quality[some, choice], w.tokens[some, choice]
    spoiled = mine & (rng.random(count) < change.worse / max(float(quality[mine].mean()), 0.05))
    voted = rng.random(count) < VOTES * change.votes
    longer = np.where(mine, change.longer, 1.0)
    rows = pd.DataFrame(
        {
            "llm": np.array(w.names, dtype=object)[choice],
            "domain": w.domain[some],
            "unseen_score": w.unseen[some],
            **{name: values[some, choice] for name, values in w.columns.items()},
            "observed_tokens": tokens * longer,
            "observed_cost_usd": w.cost[some, choice] * longer * change.dearer,
            "reward": np.where(voted, np.where(spoiled, 0.0, quality), np.nan),
        }
    )
    rows = with_catalog(rows, w.catalog)
    noise = rng.lognormal(0, 0.3, count) * np.where(mine, change.slower, 1.0)
    rows["observed_seconds"] = rows["observed_catalog_seconds"] * noise
    rows["seconds"] *= np.where(mine, change.waits, 1.0) * rng.lognormal(0, 0.1, count)
    some = some[:EMBEDDINGS]
    return Window.of(rows, embeddings=w.embeddings[some], votes=int(voted.sum()))


def joined(windows: list[Window]) -> Window:
    return Window.of(pd.concat([w.rows for w in windows]))


def stream(
    w: World, seed: int, sizes: tuple[int, int], count: int, change: Change
) -> tuple[list[list[str]], list[tuple[int, str, str | None]]]:
    """(what was lit in each window, alerts raised: window, name, subject)."""
    rng = np.random.default_rng(seed)
    reference = draw(w, rng, sizes[0], NOTHING)
    rules, at = read_rules(None), datetime(2026, 1, 1, tzinfo=UTC)
    before: list[tuple[str, str | None]] = []
    last: dict[tuple[str, str | None], datetime] = {}
    past: list[Window] = []
    lit, alerts = [], []
    for number in range(count):
        window = draw(w, rng, sizes[1], change if number >= CHANGE_AT else NOTHING)
        past = [*past, window][-RECENT:]
        signals = find_signals(reference, window, joined(past), rules.thresholds)
        at += timedelta(minutes=30)
        for signal in raised(signals, before, last, rules, at):
            last[signal.key] = at
            alerts.append((number, *signal.key))
        before = [s.key for s in signals if s.lit]
        lit.append(sorted({s.alert for s in signals if s.lit}))
    return lit, alerts


def one(task: tuple[Path, Path, str, int, tuple[int, int], int, str]) -> dict[str, Any]:
    data, home, subject, seed, sizes, count, name = task
    change = CHANGES[name][1] if name else NOTHING
    lit, alerts = stream(world(data, home, subject), seed, sizes, count, change)
    return {"change": name, "seed": seed, "lit": lit, "alerts": alerts}


def false_rates(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per window without drift."""
    windows = sum(len(run["lit"]) for run in runs)
    names = sorted({CHANGES[name][0] for name in CHANGES})
    by_name = {
        name: {
            "lit": sum(name in row for run in runs for row in run["lit"]),
            "raised": sum(a[1] == name for run in runs for a in run["alerts"]),
        }
        for name in names
    }
    return {
        "streams": len(runs),
        "windows": windows,
        "windows with anything lit": sum(bool(row) for run in runs for row in run["lit"]),
        "alerts raised": sum(len(run["alerts"]) for run in runs),
        "streams with an alert": sum(bool(run["alerts"]) for run in runs),
        "by alert": by_name,
    }


def delays(runs: list[dict[str, Any]], name: str, size: int) -> dict[str, Any]:
    """Queries from the change until its alert is raised; how many streams never raise it."""
    alert = CHANGES[name][0]
    found, others = [], 0
    for run in runs:
        at = [a[0] for a in run["alerts"] if a[1] == alert and a[0] >= CHANGE_AT]
        found.append((at[0] - CHANGE_AT + 1) * size if at else None)
        others += any(a[1] != alert for a in run["alerts"])
    known = [f for f in found if f is not None]
    return {
        "alert": alert,
        "streams": len(runs),
        "raised": len(known),
        "queries": {
            q: float(np.quantile(known, v)) if known else None
            for q, v in (("median", 0.5), ("5 %", 0.05), ("95 %", 0.95))
        },
        "streams with another alert too": others,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    none = found["no drift"]
    heads = (
        "change", "alert", "raised", "queries until raised, median [5 %, 95 %]", "other alerts",
        "false alerts in 1,000 windows",
    )  # fmt: skip
    rows = []
    for name, row in found["changes"].items():
        q = row["queries"]
        delay = f"{q['median']:.0f} [{q['5 %']:.0f}, {q['95 %']:.0f}]" if q["median"] else "–"
        rate = 1000 * none["by alert"][row["alert"]]["raised"] / none["windows"]
        rows.append(
            (
                name,
                row["alert"],
                f"{row['raised']} of {row['streams']}",
                delay,
                row["streams with another alert too"],
                f"{rate:.1f}",
            )
        )
    lines = [
        f"{none['windows']} windows of {found['window']} decisions without drift, "
        f"{none['streams']} streams: {none['windows with anything lit']} with anything lit, "
        f"{none['alerts raised']} alerts raised.",
        "",
        markdown_table(heads, rows),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--subject", default="law")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--reference", type=int, default=1000)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/drift_alarms.json"))
    options = parser.parse_args()
    sizes = (options.reference, options.window)
    where = (options.data.resolve(), options.home.resolve(), options.subject)
    world(*where)  # queries are embedded once
    tasks = [(*where, seed, sizes, options.windows, "") for seed in range(options.seeds)]
    tasks += [
        (*where, 1000 + seed, sizes, CHANGE_AT + 12, name)
        for name in CHANGES
        for seed in range(max(options.seeds // 4, 5))
    ]
    run: Callable[..., Any] = one
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(run, tasks, chunksize=2))
    found = {
        "reference": options.reference,
        "window": options.window,
        "votes": VOTES,
        "no drift": false_rates([r for r in runs if not r["change"]]),
        "changes": {
            name: delays([r for r in runs if r["change"] == name], name, options.window)
            for name in CHANGES
        },
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
