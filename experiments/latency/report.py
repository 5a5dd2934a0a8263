"""The latency experiment for people: a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from models import escape
from models.evaluation.measures import hull
from models.markdown_table import markdown_table

# What a setting came to, beside its worth.
AT_ONE: Final = ("cost, USD per 1,000", "late", "s, p50 / p95", "LLMs with over 5 %")


def traffic_table(found: dict[str, Any]) -> str:
    """Markdown: each β simulated, with what the live fleet gave beside it, then the sweep."""
    setting = found["setting"]
    lines = [
        f"**{escape.markdown(found['set'])}**: {setting['queries']} queries at "
        f"{setting['rate']:g} a second, "
        f"{setting['candidates']} LLMs with {setting['concurrency']} at a time each, an answer after "
        f"{setting['time_limit']:g} s is worth 0.",
        "",
        markdown_table(
            (
                "β",
                "AIQ, late ones worth 0",
                "late at the dearest λ",
                "at the middle λ: worth",
                *AT_ONE,
            ),
            [
                (
                    f"{row['beta']:g}",
                    f"{row['aiq']:.4f}",
                    f"{row['curve'][-1]['late']:.1%}",
                    *cells_of(row["curve"][len(row["curve"]) // 2]),
                )
                for row in found["simulated"]
            ],
        ),
    ]
    if found.get("live"):
        lines += [
            "",
            f"Live, over HTTP, time scaled by {setting['speed']:g}; the same queries simulated beside:",
            "",
            markdown_table(
                ("β", "λ", "run", "worth", *AT_ONE, "same choice"),
                [
                    (
                        f"{row['beta']:g}",
                        f"{row['willingness_to_pay']:.3g}",
                        run,
                        *cells_of(row[run]),
                        f"{row['same_choice']:.0%}" if run == "live" else "",
                    )
                    for row in found["live"]
                    for run in ("simulated", "live")
                ],
            ),
        ]
    if found.get("sweep"):
        lines += ["", "AIQ, late ones worth 0, at β = 0.1, by γ (1/s) and ξ:", ""]
        shares = sorted({row["time_share"] for row in found["sweep"]})
        aiq = {(row["gamma"], row["time_share"]): f"{row['aiq']:.4f}" for row in found["sweep"]}
        rows = [
            (f"{gamma:g}", *(aiq[gamma, share] for share in shares))
            for gamma in sorted({row["gamma"] for row in found["sweep"]})
        ]
        lines.append(markdown_table(("γ \\ ξ", *(f"{share:g}" for share in shares)), rows))
    return "\n".join(lines)


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Worth, cost, share of late answers, seconds, and who answered."""
    often = sorted(row["shares"].items(), key=lambda item: -item[1])
    named = ", ".join(
        f"{escape.markdown(name)} {share:.0%}" for name, share in often if share > 0.05
    )
    return (
        f"{row['worth']:.4f}",
        f"{1000 * row['cost_usd']:.3f}",
        f"{row['late']:.1%}",
        f"{row['seconds_p50']:.1f} / {row['seconds_p95']:.1f}",
        named,
    )


def plot_traffic(found: dict[str, Any], path: Path) -> None:
    """Worth and share of late answers over cost, a line each β; live runs as crosses, the same
    queries simulated as circles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    worth, late, shares = figure.subplots(1, 3)
    for number, row in enumerate(found["simulated"]):
        cost = np.array([point["cost_usd"] for point in row["curve"]])
        value = np.array([point["worth"] for point in row["curve"]])
        xs, ys = hull(cost, value)
        label = f"β = {row['beta']:g} (AIQ {row['aiq']:.3f})"
        worth.plot(1000 * xs[1:], ys[1:], color=f"C{number}", label=label)
        worth.plot(1000 * cost, value, ".", color=f"C{number}", markersize=3)
        order = np.argsort(cost)
        missed = np.array([point["late"] for point in row["curve"]])
        late.plot(1000 * cost[order], 100 * missed[order], color=f"C{number}", label=label)
    betas = [row["beta"] for row in found["simulated"]]
    for row in found.get("live") or []:
        colour = f"C{betas.index(row['beta'])}"
        for run, mark in (("simulated", "o"), ("live", "x")):
            x = 1000 * row[run]["cost_usd"]
            marked = {"color": colour, "markersize": 8, "markerfacecolor": "none"}
            worth.plot(x, row[run]["worth"], mark, **marked)
            late.plot(x, 100 * row[run]["late"], mark, **marked)
    names = sorted({n for row in found["simulated"] for n in row["curve"][-1]["shares"]})
    left = np.zeros(len(betas))
    for number, name in enumerate(names):
        part = np.array([row["curve"][-1]["shares"].get(name, 0.0) for row in found["simulated"]])
        colour = f"C{number % 10}"
        shares.barh(
            range(len(betas)),
            100 * part,
            left=100 * left,
            color=colour,
            alpha=1.0 if number < 10 else 0.55,
            label=escape.label(name) if part.max() > 0.02 else None,
        )
        left += part
    shares.set_yticks(range(len(betas)), [f"β = {beta:g}" for beta in betas])
    shares.set_xlabel("share of traffic at the dearest λ, %")
    shares.legend(fontsize=5, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.12))
    for axes, name in ((worth, "mean quality, late answers worth 0"), (late, "late answers, %")):
        axes.set_xscale("log")
        axes.set_xlabel("mean cost, USD per 1,000 queries")
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    worth.legend(fontsize=7)
    live = ""
    if found.get("live"):
        count = found["setting"]["live"]
        live = f"; crosses: the first {count} live over HTTP, circles: the same simulated"
    figure.suptitle(
        f"{escape.label(found['set'])}: {found['setting']['rate']:g} queries a second{live}"
    )
    figure.savefig(path, dpi=150)
