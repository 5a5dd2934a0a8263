"""Plots that people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from models import escape
from models.evaluation.measures import hull

STYLE: Final = {
    "mixllm": ("C0", "-", 2.2),
    "tuned_knn": ("C1", "-", 1.2),
    "clusters": ("C2", "-", 1.2),
    "paper_recipe": ("C4", "-", 1.2),
    "zero": ("0.4", "--", 1.2),
    "oracle": ("C3", ":", 1.5),
}


def plot_curves(curves: dict[str, np.ndarray], results: dict[str, Any], path: Path) -> None:
    """The cost–quality curves (hulls), the single candidates as points. path: .png or .svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    singles = curves["zero"]
    for name, (colour, dash, width) in STYLE.items():
        if name not in curves:
            continue
        xs, ys = hull(curves[name][:, 0], curves[name][:, 1])
        area = results["measures"][name]["aiq"]["value"]
        xs, ys = np.append(xs[1:], singles[:, 0].max()), np.append(ys[1:], ys[-1])
        label = f"{name} (AIQ {area:.3f})"
        axes.plot(1000 * xs, ys, color=colour, linestyle=dash, linewidth=width, label=label)
    axes.scatter(1000 * singles[:, 0], singles[:, 1], color="0.4", s=14, zorder=3)
    for name, (x, y) in zip(results["candidates"], singles, strict=True):
        axes.annotate(
            escape.label(name),
            (1000 * x, y),
            fontsize=6,
            xytext=(3, -7),
            textcoords="offset points",
        )
    if (singles[:, 0] > 0).all():
        axes.set_xscale("log")
        axes.set_xlim(left=0.8e3 * singles[:, 0].min())
    axes.set_ylim(bottom=min(singles[:, 1].min(), 0.95 * singles[:, 1].max()) - 0.02)
    axes.set_xlabel("mean cost, USD per 1,000 queries")
    axes.set_ylabel("mean quality")
    axes.set_title(f"{escape.label(results['test_set'])}: {results['test_queries']} unseen queries")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
