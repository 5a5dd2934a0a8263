"""The online experiment's report: ``online.json``, ``online.md``, ``online.png``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

# Two-sided 95 % quantiles of Student's t by degrees of freedom, for the few seeds there are.
T_95: Final = (np.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MODES: Final = ("offline", "binary", "refined")
Run = dict[str, Any]


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Every table of the report, as numbers: differences are paired by seed."""
    by = {(r["share"], r["seed"], r["scenario"]): r for r in runs}
    shares = sorted({r["share"] for r in runs})
    seeds = sorted({r["seed"] for r in runs})

    def pairs(share: float, scenario: str, baseline: str) -> list[tuple[Run, Run]]:
        keys = [((share, s, scenario), (share, s, baseline)) for s in seeds]
        return [(by[a], by[b]) for a, b in keys if a in by and b in by]

    gains = {}
    for share in shares:
        for mode in MODES[1:]:
            gains[f"{share:.0%} {mode}"] = _gain(pairs(share, mode, "offline"))
    others = sorted({r["scenario"] for r in runs} - set(MODES))
    found = {}
    for share in shares:
        for scenario in others:
            mode = scenario.rpartition(", ")[2]
            # What happens to a candidate is held against the router that does not learn of it.
            baseline = "offline"
            if scenario.startswith(("degraded", "new")):
                baseline = scenario.replace(mode, "offline")
            if matched := pairs(share, scenario, baseline):
                found[f"{share:.0%} {scenario}"] = {**_gain(matched), **_events(matched)}
    levels = {
        f"{share:.0%}": {
            name: float(np.mean([by[share, s, "offline"][name] for s in seeds]))
            for name in ("worth", "quality", "cost", "aiq", "regret_oracle", "regret_fixed")
        }
        for share in shares
        if all((share, s, "offline") in by for s in seeds)
    }
    return {"seeds": seeds, "levels": levels, "gains": gains, "scenarios": found}


def _gain(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    def per_cent(name: str) -> Callable[[tuple[Run, Run]], float]:
        return lambda pair: 100 * (pair[0][name] / pair[1][name] - 1)

    return {
        "seeds": len(pairs),
        "quality_per_cent": interval([per_cent("quality")(p) for p in pairs]),
        "worth_per_cent": interval([per_cent("worth")(p) for p in pairs]),
        "worth_after_per_cent": interval([per_cent("worth_after")(p) for p in pairs]),
        "cost_per_cent": interval([per_cent("cost")(p) for p in pairs]),
        "aiq_per_cent": interval([per_cent("aiq")(p) for p in pairs]),
        "regret": interval([p[0]["regret_oracle"] - p[1]["regret_oracle"] for p in pairs]),
    }


def _events(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """What the scenario's own runs show."""
    first = [run for run, _ in pairs]
    liars = {voter for run in first for voter in run["liars"]}
    row: dict[str, Any] = {
        "held_of_liars": float(
            np.mean(
                [len(set(r["held"]) & set(r["liars"])) / max(len(r["liars"]), 1) for r in first]
            )
        )
        if liars
        else None,
        "held_wrongly": float(np.mean([len(set(r["held"]) - set(r["liars"])) for r in first])),
    }
    if "reacted_after" in first[0]:
        row |= {
            "share_before": float(np.mean([r["share_before"] for r in first])),
            "share_at_end": float(np.mean([r["share_at_end"] for r in first])),
            "reacted_after": [r["reacted_after"] for r in first],
        }
    return row


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """The mean with its 95 % interval by Student's t."""
    mean = float(np.mean(values)) if values else float("nan")
    count = len(values)
    if not 2 <= count < len(T_95) + 1:
        return {"value": mean, "low": None, "high": None}
    half = float(T_95[count - 1] * np.std(values, ddof=1) / np.sqrt(count))
    return {"value": mean, "low": mean - half, "high": mean + half}


def shown(cell: dict[str, float | None], digits: int = 2) -> str:
    """ "+0.51 [-0.10, 1.12]"."""
    text = f"{cell['value']:+.{digits}f}"
    if cell["low"] is None or cell["high"] is None:
        return text
    return f"{text} [{cell['low']:+.{digits}f}, {cell['high']:+.{digits}f}]"


def online_table(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "Worth is quality less cost over the willingness to pay, of the streamed queries' answers. "
        "Gains over the router that does not learn, per cent, paired by seed, mean and 95 % interval "
        f"(Student's t, {len(found['seeds'])} seeds). AIQ: of the test queries, after the stream.",
        "",
        "| offline share, feedback | quality | worth | cost | test AIQ |",
        "| --- | --- | --- | --- | --- |",
    ]
    columns = ("quality_per_cent", "worth_per_cent", "cost_per_cent", "aiq_per_cent")
    for name, row in found["gains"].items():
        lines.append(f"| {name} | " + " | ".join(shown(row[c]) for c in columns) + " |")
    if not found["scenarios"]:
        return "\n".join(lines)
    lines += [
        "",
        "What may happen (degraded: the most chosen LLM's quality halves in the middle of the stream; "
        "new: the best LLM is there from the middle on, seen on 100 queries before), against the "
        "router that does not learn, in the second half of the stream:",
        "",
        "| scenario | worth after | share before → at the end | after queries | liars held | wrongly |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found["scenarios"].items():
        if name.endswith(", offline"):
            continue
        moved, when = "", ""
        if "reacted_after" in row:
            moved = f"{row['share_before']:.0%} → {row['share_at_end']:.0%}"
            when = ", ".join("never" if v is None else str(v) for v in row["reacted_after"])
        held = "" if row["held_of_liars"] is None else f"{row['held_of_liars']:.0%}"
        lines.append(
            f"| {name} | {shown(row['worth_after_per_cent'])} | {moved} | {when} | {held} | "
            f"{row['held_wrongly']:g} |"
        )
    return "\n".join(lines)


def plot_online(runs: Sequence[Run], path: Path) -> None:
    """Regret against the oracle along the stream, the seeds' mean, a panel per share and event."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shares = sorted({r["share"] for r in runs})
    panels = [(share, kind) for share in shares for kind in ("", "degraded, ", "new, ")]
    panels = [
        (share, kind)
        for share, kind in panels
        if any(r["share"] == share and r["scenario"] == f"{kind}offline" for r in runs)
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.2), squeeze=False, layout="constrained"
    )
    for axis, (share, kind) in zip(axes[0], panels, strict=True):
        for mode in MODES:
            mine = [r for r in runs if r["share"] == share and r["scenario"] == kind + mode]
            if mine:
                curve = np.mean([r["regret_curve"] for r in mine], axis=0)
                axis.plot(mine[0]["at"], curve, label=mode)
        axis.set_title(f"{kind.rstrip(', ') or 'plain'}, {share:.0%} offline", fontsize=9)
        axis.set_xlabel("queries")
    axes[0][0].set_ylabel("regret against the oracle")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_report(runs: Sequence[Run], folder: Path) -> None:
    """Write the three files of one set's runs."""
    found = summary(runs)
    (folder / "online.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "online.md").write_text(online_table(found) + "\n")
    plot_online(runs, folder / "online.png")
