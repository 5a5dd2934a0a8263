"""The online experiment's report: ``online.json``, ``online.md``, ``online.png``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.markdown_table import markdown_table

# Two-sided 95 % quantiles of Student's t by degrees of freedom, for the few seeds there are.
T_95: Final = (np.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# The run that was trained on every outcome.
WHOLE: Final = "whole"
MODES: Final = ("offline", "binary", "refined")
Run = dict[str, Any]


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Every table of the report, as numbers: differences are paired by seed."""
    whole = [r["aiq"] for r in runs if r["scenario"] == WHOLE]
    runs = [r for r in runs if r["scenario"] != WHOLE]
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
    ceilings = {share: 100 * (whole[0] / row["aiq"] - 1) for share, row in levels.items() if whole}
    return {
        "seeds": seeds,
        "levels": levels,
        "gains": gains,
        "whole_aiq_per_cent": ceilings,
        "scenarios": found,
    }


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
    columns = ("quality_per_cent", "worth_per_cent", "cost_per_cent", "aiq_per_cent")
    gains = [(name, *(shown(row[c]) for c in columns)) for name, row in found["gains"].items()]
    gains += [
        (f"{share}, then every outcome of the rest", "", "", "", f"{value:+.2f}")
        for share, value in found["whole_aiq_per_cent"].items()
    ]
    lines = [
        "Worth is quality less cost over the willingness to pay, of the streamed queries' answers. "
        "Gains over the router that does not learn, per cent, paired by seed, mean and 95 % interval "
        f"(Student's t, {len(found['seeds'])} seeds). AIQ: of the test queries, after the stream.",
        "",
        markdown_table(("offline share, feedback", "quality", "worth", "cost", "test AIQ"), gains),
    ]
    if not found["scenarios"]:
        return "\n".join(lines)
    lines += [
        "",
        "What may happen (degraded: the most chosen LLM's quality halves in the middle of the stream; "
        "new: the best LLM is there from the middle on, seen on 100 queries before), against the "
        "router that does not learn, in the second half of the stream:",
        "",
        scenarios_table(found["scenarios"]),
    ]
    return "\n".join(lines)


def scenarios_table(scenarios: dict[str, dict[str, Any]]) -> str:
    """Markdown: what each event did to the router that learns."""
    rows = []
    for name, row in scenarios.items():
        if name.endswith(", offline"):
            continue
        moved, when = "", ""
        if "reacted_after" in row:
            moved = f"{row['share_before']:.0%} → {row['share_at_end']:.0%}"
            when = ", ".join("never" if v is None else str(v) for v in row["reacted_after"])
        held = "" if row["held_of_liars"] is None else f"{row['held_of_liars']:.0%}"
        worth = shown(row["worth_after_per_cent"])
        rows.append((name, worth, moved, when, held, f"{row['held_wrongly']:g}"))
    heads = (
        "scenario", "worth after", "share before → at the end", "after queries", "liars held",
        "wrongly",
    )  # fmt: skip
    return markdown_table(heads, rows)


def plot_online(runs: Sequence[Run], path: Path) -> None:
    """Along the stream, the seeds' mean: regret against the oracle, and what learning has gained over
    the router that does not learn, with the seeds' range; a column per share and event."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by = {(r["share"], r["scenario"], r["seed"]): r for r in runs}
    panels = [
        (share, kind)
        for share in sorted({r["share"] for r in runs})
        for kind in ("", "degraded, ", "new, ")
        if any(key[:2] == (share, f"{kind}offline") for key in by)
    ]
    figure, axes = plt.subplots(
        2, len(panels), figsize=(3.4 * len(panels), 5.4), squeeze=False, layout="constrained"
    )
    for column, (share, kind) in enumerate(panels):
        above, below = axes[0][column], axes[1][column]
        for mode in MODES:
            mine = [r for key, r in by.items() if key[:2] == (share, kind + mode)]
            if not mine:
                continue
            at, curves = mine[0]["at"], [_curves(r) for r in mine]
            regret = np.mean([c["oracle"] - c["worth"] for c in curves], axis=0)
            above.plot(at, regret, label=mode, color=COLOURS[mode])
            if mode == "offline":
                fixed = np.mean([c["oracle"] - c["fixed"] for c in curves], axis=0)
                above.plot(at, fixed, ":", color="grey", label="best fixed LLM")
                continue
            still = [_curves(by[share, f"{kind}offline", r["seed"]]) for r in mine]
            gained = [c["worth"] - s["worth"] for c, s in zip(curves, still, strict=True)]
            (drawn,) = below.plot(at, np.mean(gained, axis=0), label=mode, color=COLOURS[mode])
            low, high = np.min(gained, axis=0), np.max(gained, axis=0)
            below.fill_between(at, low, high, alpha=0.2, color=drawn.get_color())
        below.axhline(0, color="grey", linewidth=0.8)
        above.set_title(f"{kind.rstrip(', ') or 'plain'}, {share:.0%} offline", fontsize=9)
        below.set_xlabel("queries")
    axes[0][0].set_ylabel("regret against the oracle")
    axes[1][0].set_ylabel("worth gained by learning")
    axes[0][0].legend(fontsize=7)
    axes[1][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


COLOURS: Final = {"offline": "C0", "binary": "C1", "refined": "C2"}


def _curves(run: Run) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in run["curves"].items()}


def write_report(runs: Sequence[Run], folder: Path) -> None:
    """Write the three files of one set's runs."""
    found = summary(runs)
    runs = [run for run in runs if run["scenario"] != WHOLE]
    (folder / "online.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "online.md").write_text(online_table(found) + "\n")
    plot_online(runs, folder / "online.png")
