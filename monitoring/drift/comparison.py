"""Evidently's comparison of a window with the reference, and its workspace."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from infra.evidently_workspace import staged
from models.drift.windows import WORDS, Window, delay, residuals

# Evidently compares so many rows; the tests above it have seen all that were read.
MOST_ROWS: Final = 20_000
COMPONENTS: Final = 3
# Fewer known values than these say nothing of a column.
LEAST_VALUES: Final = 5
PROJECT: Final = "MixLLM drift"


def compare(reference: Window, window: Window, name: str) -> tuple[Any, list[str]]:
    """(Evidently's snapshot, the columns left out because they have too few values)."""
    with warnings.catch_warnings():  # its own, and of constant columns
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import RowCount
        from evidently.presets import DataDriftPreset

        now, before = table(window), table(reference)
        axes = components(reference.embeddings, window.embeddings)
        known = [c for c in now.columns if min(now[c].count(), before[c].count()) >= LEAST_VALUES]
        left_out = [c for c in now.columns if c not in known]
        now, before = now[known], before[known]
        if axes is not None:
            now, before = with_columns(now, axes[1]), with_columns(before, axes[0])
        metrics: list[Any] = [RowCount()]
        if len(now.columns):
            metrics.append(DataDriftPreset(columns=list(now.columns)))
        numbers = [c for c in now.columns if c not in WORDS]
        kinds = DataDefinition(
            numerical_columns=numbers, categorical_columns=[c for c in known if c in WORDS]
        )
        sets = [Dataset.from_pandas(t, data_definition=kinds) for t in (now, before)]
        return Report(metrics).run(*sets, name=name), left_out


def table(window: Window) -> pd.DataFrame:
    """A window's columns as people know them, at most ``MOST_ROWS``."""
    rows = window.rows
    if len(rows) > MOST_ROWS:
        rows = rows.sample(MOST_ROWS, random_state=0)
    off = residuals(rows)
    return pd.DataFrame(
        {
            "unseen score": rows["unseen_score"],
            "query tokens": rows["query_tokens"],
            "predicted quality": rows["quality"],
            "vote": rows["reward"],
            "quality beyond prediction": off["quality"],
            "predicted tokens": rows["response_tokens"],
            "observed tokens": rows["observed_tokens"],
            "log tokens over predicted": off["tokens"],
            "predicted cost, USD": rows["cost_usd"],
            "observed cost, USD": rows["observed_cost_usd"],
            "predicted seconds": rows["seconds"],
            "observed seconds": rows["observed_seconds"],
            "log predicted seconds over the catalog's": delay(rows),
            "uncertainty": rows["uncertainty"],
            # Evidently writes words into its page's script as they are; a domain's come from users.
            **{word: rows[word].map(harmless, na_action="ignore") for word in WORDS},
        }
    )


def harmless(word: str) -> str:
    """Without what would end a script."""
    return word.replace("<", "‹").replace(">", "›")


def components(
    reference: np.ndarray, window: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Both samples of embeddings along the reference's first principal components."""
    if len(reference) <= COMPONENTS or not len(window) or reference.shape[1] != window.shape[1]:
        return None
    middle = reference.mean(axis=0)
    _, _, axes = np.linalg.svd(reference - middle, full_matrices=False)
    names = [f"embedding, component {i + 1}" for i in range(COMPONENTS)]
    return tuple(  # type: ignore[return-value]
        pd.DataFrame((part - middle) @ axes[:COMPONENTS].T, columns=names)
        for part in (reference, window)
    )


def with_columns(rows: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Side by side, whatever their lengths: a sample of rows beside a sample of embeddings."""
    return pd.concat([rows.reset_index(drop=True), more], axis=1)


def add_to_workspace(workspace: Path, name: str, snapshot: Any) -> None:
    """Add a snapshot to the workspace, whose pages show its drifted columns through time."""
    with staged(workspace) as copy:
        _add_snapshot(copy, name, snapshot)


def _add_snapshot(workspace: Path, name: str, snapshot: Any) -> None:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import DashboardPanelPlot
    from evidently.ui.workspace import Workspace

    opened = Workspace.create(str(workspace))
    drift = next((p for p in opened.list_projects() if p.name == PROJECT), None)
    if drift is None:
        drift = opened.create_project(PROJECT, "Each release's decisions against its first ones.")
        drift.dashboard.add_panel(
            DashboardPanelPlot(
                title="Drifted columns",
                subtitle="a window",
                size="full",
                values=[
                    PanelMetric(
                        metric="DriftedColumnsCount",
                        legend="share",
                        metric_labels={"value_type": "share"},
                    )
                ],
                plot_params={"plot_type": "line"},
            )
        )
        drift.save()
    opened.add_run(drift.id, snapshot, name=name)
