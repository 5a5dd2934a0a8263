"""The drift report: one page for people, above Evidently's; kept in Evidently's workspace too."""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from infra.evidently_workspace import staged
from models.drift.alerts import KINDS, Rules
from models.drift.signals import Signal
from models.drift.windows import WORDS, Window, delay, domain_shares, figures, residuals

# Evidently compares so many rows; the tests above it have seen all that were read.
MOST_ROWS: Final = 20_000
COMPONENTS: Final = 3
# Fewer known values than these say nothing of a column.
LEAST_VALUES: Final = 5
PROJECT: Final = "MixLLM drift"
LINES: Final = (
    "unseen share", "largest share", "satisfaction", "quality beyond prediction",
    "tokens over predicted", "cost over predicted", "observed seconds", "votes a decision",
)  # fmt: skip


OF_CANDIDATES: Final = (
    "predicted quality", "satisfaction", "tokens over predicted", "cost over predicted",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What a report is of. title: for people. past: the windows before, the oldest first. verdicts:
    of the gate on the challenger, if there is one, and what it decided in shadow; lines of text."""

    title: str
    reference: Window
    window: Window
    signals: Sequence[Signal]
    raised: Mapping[int, Signal]
    past: Sequence[Mapping[str, Any]]
    rules: Rules
    verdicts: Sequence[str] = ()


def write_report(page: Page, file: Path, workspace: Path) -> list[Path]:
    """Write the page, and one of it with Evidently's below (whose 5 MiB MLflow's pages do not show); add
    Evidently's to the workspace. Returns both files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = whole_page(file)
    snapshot, left_out = compare(page.reference, page.window, page.title)
    snapshot.save_html(str(whole))
    told = summary(page, left_out)
    head, tag, rest = whole.read_text().partition("<body>")
    heading = '<div class="mixllm"><h2>Evidently: every column\'s distribution</h2></div>'
    whole.write_text(f"{head}{tag}\n{told}\n{heading}\n{rest}")
    link = f'<div class="mixllm"><p>Every column: <a href="{whole.name}">{whole.name}</a></p></div>'
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>\n{told}\n{link}\n</body>\n')
    project(workspace, page.title, snapshot)
    return [file, whole]


def whole_page(file: Path) -> Path:
    """Where the page with Evidently's part lies, beside the page."""
    return file.with_stem(f"{file.stem}-evidently")


def compare(reference: Window, window: Window, name: str) -> tuple[Any, list[str]]:
    """(Evidently's snapshot, the columns that were left out for want of values)."""
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
            "foreseen seconds": rows["seconds"],
            "observed seconds": rows["observed_seconds"],
            "log foreseen seconds over the catalog's": delay(rows),
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


def project(workspace: Path, name: str, snapshot: Any) -> None:
    """Add a snapshot to the workspace, whose pages show its drifted columns through time."""
    with staged(workspace) as copy:
        add_snapshot(copy, name, snapshot)


def add_snapshot(workspace: Path, name: str, snapshot: Any) -> None:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import DashboardPanelPlot
    from evidently.ui.workspace import Workspace

    opened = Workspace.create(str(workspace))
    found = next((p for p in opened.list_projects() if p.name == PROJECT), None)
    if found is None:
        found = opened.create_project(PROJECT, "Each release's decisions against its first ones.")
        found.dashboard.add_panel(
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
        found.save()
    opened.add_run(found.id, snapshot, name=name)


STYLE: Final = """<style>
.mixllm{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:24px auto;padding:0 16px}
.mixllm h1{font-size:24px;margin:0 0 4px}.mixllm h2{font-size:18px;margin:24px 0 6px}
.mixllm table{border-collapse:collapse;width:100%}
.mixllm th,.mixllm td{text-align:left;padding:5px 10px;border-bottom:1px solid #dde3ea}
.mixllm td.n{text-align:right;font-variant-numeric:tabular-nums}
.mixllm .lit{background:#fdecea}.mixllm .quiet{color:#667}.mixllm .ok{color:#1a7f37}
.mixllm .box{border-left:4px solid #c0392b;background:#fdf3f2;padding:8px 14px;margin:10px 0}
.mixllm .box.ok{border-color:#1a7f37;background:#f0f8f2;color:inherit}
</style>"""


def summary(page: Page, left_out: Sequence[str]) -> str:
    """HTML: what moved, how much, since when, what to do."""
    lit = [s for s in page.signals if s.lit]
    parts = [STYLE, '<div class="mixllm">', f"<h1>{html.escape(page.title)}</h1>"]
    parts.append(
        f'<p class="quiet">{page.window.total:,} decisions ({len(page.window):,} read, '
        f"{page.window.fallbacks} fallbacks) against the release's first {page.reference.total:,}; "
        f"made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC</p>"
    )
    if not lit:
        parts.append('<div class="box ok">Nothing moved beyond what chance explains.</div>')
    for signal in lit:
        parts.append(_box(signal, page))
    parts += ["<h2>What was looked at</h2>", _signals(page.signals)]
    parts += ["<h2>Through time</h2>", plot(page), "<h2>Figures</h2>", _figures(page)]
    parts += ["<h2>Candidates</h2>", _candidates(page)]
    parts += ["<h2>Domains</h2>", _domains(page)]
    if page.verdicts:
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in page.verdicts)
        parts += ["<h2>The challenger</h2>", lines]
    notes = [f"Not compared, for want of values: {', '.join(left_out)}."] if left_out else []
    if not page.window.rows["reward"].notna().any():
        notes.append("No feedback came on these decisions: quality was not compared.")
    new = sorted(set(page.window.llms) - set(page.reference.llms))
    if new:
        notes.append(f"Never chosen in the reference, so not compared: {', '.join(new)}.")
    parts += [f'<p class="quiet">{html.escape(note)}</p>' for note in notes]
    parts.append("</div>")
    return "\n".join(parts)


def _box(signal: Signal, page: Page) -> str:
    kind, rule = KINDS[signal.alert], page.rules[signal.alert]
    about = f" ({html.escape(signal.subject)})" if signal.subject else ""
    was = "" if signal.reference is None else f", was {signal.reference:.3g}"
    number = next((i for i, s in page.raised.items() if s.key == signal.key), None)
    state = f"Alert {number} was raised." if number else _not_raised(signal, page)
    return (
        f'<div class="box"><b>{kind.title}{about}</b>: {html.escape(signal.what)} is '
        f"{signal.now:.3g}{was}. Since {_since(signal, page)}. {state} "
        f"To do: {kind.repair} (mode {rule.mode}); see {kind.page(signal.alert)}.</div>"
    )


def _not_raised(signal: Signal, page: Page) -> str:
    if signal.certain or _lit_before(signal, page.past[-1:]):
        return "It was raised before, and cools down."
    return "It waits for a second window."


def _lit_before(signal: Signal, past: Sequence[Mapping[str, Any]]) -> bool:
    return bool(past) and any(
        s["lit"] and (s["alert"], s["subject"]) == signal.key for s in past[-1]["signals"]
    )


def _since(signal: Signal, page: Page) -> str:
    """When the run of windows that show it began."""
    since = "this window"
    for number in range(len(page.past), 0, -1):
        if not _lit_before(signal, page.past[:number]):
            break
        since = f"{page.past[number - 1]['started_at']:%Y-%m-%d %H:%M}"
    return since


def _signals(signals: Sequence[Signal]) -> str:
    rows = []
    for s in signals:
        p = "" if s.p_value is None else f"{s.p_value:.2g}"
        was = "" if s.reference is None else f"{s.reference:.3f}"
        rows.append(
            f'<tr class="{"lit" if s.lit else ""}"><td>{KINDS[s.alert].title}</td>'
            f"<td>{html.escape(s.subject or '')}</td><td>{html.escape(s.what)}</td>"
            f'<td class="n">{was}</td><td class="n">{s.now:.3f}</td>'
            f'<td class="n">{s.effect:.3f} / {s.threshold:g}</td><td class="n">{p}</td>'
            f'<td class="n">{s.samples}</td></tr>'
        )
    heads = ("alert", "of", "figure", "was", "is", "effect / least", "p (Holm)", "rows")
    return _table(heads, rows)


def _figures(page: Page) -> str:
    before, now = figures(page.reference), figures(page.window)
    rows = [
        f'<tr><td>{name}</td><td class="n">{_number(before[name])}</td>'
        f'<td class="n">{_number(now[name])}</td></tr>'
        for name in now
    ]
    return _table(("figure", "reference", "window"), rows)


def _candidates(page: Page) -> str:
    shares, were = page.window.shares(), page.reference.shares()
    rows = []
    for name, share in shares.items():
        mine = figures(Window.of(page.window.of_llm(name)))
        seconds = float(np.exp(residuals(page.window.of_llm(name))["seconds"].mean()))
        cells = [were.get(name), share, *(mine[figure] for figure in OF_CANDIDATES), seconds]
        told = "".join(f'<td class="n">{_number(cell)}</td>' for cell in cells)
        rows.append(f"<tr><td>{html.escape(name)}</td>{told}</tr>")
    heads = ("candidate", "share was", "share is", "quality foreseen", "votes", "tokens / foreseen",
             "cost / foreseen", "seconds / catalog's")  # fmt: skip
    return _table(heads, rows)


def _domains(page: Page) -> str:
    now, before = domain_shares(page.window), domain_shares(page.reference)
    moved = sorted({*now, *before}, key=lambda d: -abs(now.get(d, 0.0) - before.get(d, 0.0)))[:12]
    rows = [
        f'<tr><td>{html.escape(d)}</td><td class="n">{before.get(d, 0.0):.1%}</td>'
        f'<td class="n">{now.get(d, 0.0):.1%}</td></tr>'
        for d in moved
    ]
    return _table(("domain (those that moved most)", "share was", "share is"), rows)


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{h}</th>" for h in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.4g}"


def plot(page: Page) -> str:
    """The lines through time as SVG; the reference as a dashed line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    before = figures(page.reference)
    lines = [*(row["figures"] for row in page.past), figures(page.window)]
    known = [n for n in LINES if any(line.get(n) is not None for line in lines)]
    if not known:
        return ""
    figure = Figure(figsize=(11, 1.9 * (-(-len(known) // 4))), layout="constrained")
    for number, name in enumerate(known):
        axes = figure.add_subplot(-(-len(known) // 4), 4, number + 1)
        values = [np.nan if row.get(name) is None else row[name] for row in lines]
        axes.plot(range(1, len(values) + 1), values, marker=".", color="#1f6feb")
        if (line := before.get(name)) is not None:
            axes.axhline(line, color="#888", linestyle="--", linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.margins(y=0.3)
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :]
