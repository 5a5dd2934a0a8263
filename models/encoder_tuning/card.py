"""The model card of an encoder, from what its build measured."""

from __future__ import annotations

from typing import Any

from models import escape
from models.markdown_table import markdown_table


def model_card(config: dict[str, Any], report: dict[str, Any]) -> str:
    """Markdown. config: ``encoder.json``. report: ``encoder-report.json``."""
    tuned = "tuning" in report
    lines = [
        "# MixLLM encoder",
        "",
        f"Query text → {config['dimension']}-dimensional unit embedding; reads "
        f"{config['max_tokens']} tokens. Base model: {escape.markdown(config['base_model'])}"
        + (", tuned." if tuned else ", as published."),
        "",
        f"Trained for one router's predictors, on {report['queries']} queries (data digest "
        f"`{report['data_digest'][:16]}`). Embeddings of different encoders do not mix.",
        "",
        "## Graphs",
        f"Chosen: **{report['chosen']}**, the smallest that passed. Against the model itself, on "
        "training queries; one thread, 64 tokens:",
        "",
        markdown_table(
            ("graph", "cosine, mean", "least", "same choices", "milliseconds", "MB"),
            [
                (
                    graph["precision"],
                    f"{graph['cosine']:.4f}",
                    f"{graph['least_cosine']:.4f}",
                    f"{graph['agreement']:.1%}",
                    f"{graph['milliseconds']:.1f}",
                    f"{graph['megabytes']:.0f}",
                )
                for graph in report["graphs"]
            ],
        ),
    ]
    if tuned:
        lines += ["", *_tuning(report)]
    return "\n".join(lines) + "\n"


def _tuning(report: dict[str, Any]) -> list[str]:
    tuning, settings = report["tuning"], report["settings"]
    lines = [
        "## Tuning",
        f"{tuning['seconds']:.0f} s on {tuning['device']}, {tuning['peak_megabytes']:.0f} MB at most. "
        f"Kept: epoch {tuning['best_epoch']}. Measured on the {settings['held_share']:.0%} of the "
        "training queries that the tuning did not learn from:",
        "",
        markdown_table(
            (
                "epoch",
                "deviations predicted (R²)",
                "AUC",
                "gap closed",
                "within domains",
                "between",
            ),
            [
                (
                    f"{epoch['epoch']:.0f}",
                    f"{epoch['deviation_r2']:.4f}",
                    f"{epoch['auc']:.4f}",
                    f"{epoch['gap_closed']:.1%}",
                    f"{epoch['within']:.3f}",
                    f"{epoch['between']:.3f}",
                )
                for epoch in tuning["epochs"]
            ],
        ),
        "",
        "Settings:",
        "",
    ]
    lines += [f"- {key}: {escape.markdown(str(value))}" for key, value in settings.items()]
    return lines
