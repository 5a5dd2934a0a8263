"""What the drift report's page shows, as HTML by a template: what moved, how much, since when."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final

import jinja2
import numpy as np
from markupsafe import Markup

from models.drift.alerts import KINDS, Kind, Rules
from models.drift.signals import Signal
from models.drift.windows import Window, domain_shares, figures, residuals
from monitoring.drift.window_log import KeptWindow

TEMPLATE: Final = "report.html.j2"
LINES: Final = (
    "unseen share", "largest share", "satisfaction", "quality beyond prediction",
    "tokens over predicted", "cost over predicted", "observed seconds", "votes a decision",
)  # fmt: skip
OF_CANDIDATES: Final = (
    "predicted quality", "satisfaction", "tokens over predicted", "cost over predicted",
)  # fmt: skip
MOST_DOMAINS: Final = 12


@dataclass(frozen=True)
class Page:
    """What a report is about.

    title: for people.
    raised: alert id → its signal.
    past: the windows before, the oldest first.
    verdicts: of the gate on the challenger, if there is one, and what it decided in shadow; lines of
        text.
    """

    title: str
    reference: Window
    window: Window
    signals: Sequence[Signal]
    raised: Mapping[int, Signal]
    past: Sequence[KeptWindow]
    rules: Rules
    verdicts: Sequence[str] = ()


@dataclass(frozen=True)
class Moved:
    """A signal that is lit, as its box shows it.

    since: when the run of windows that show it began.
    """

    signal: Signal
    kind: Kind
    since: str
    state: str
    mode: str

    @classmethod
    def of(cls, signal: Signal, page: Page) -> Moved:
        number = next((i for i, s in page.raised.items() if s.key == signal.key), None)
        state = f"Alert {number} was raised." if number else not_raised(signal, page)
        mode = page.rules[signal.alert].mode
        return cls(signal, KINDS[signal.alert], since(signal, page), state, mode)


@dataclass(frozen=True)
class CandidateRow:
    """One candidate's line.

    values: in the order of the table's heads; None where unknown.
    """

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class DomainRow:
    """A domain's share of the decisions."""

    name: str
    before: float
    now: float


def render(page: Page, left_out: Sequence[str]) -> str:
    """HTML, with what users wrote escaped.

    left_out: columns with too few values to compare.
    """
    before, now = figures(page.reference), figures(page.window)
    return _template().render(
        page=page,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        moved=[Moved.of(signal, page) for signal in page.signals if signal.lit],
        kinds=KINDS,
        plot=Markup(plot(page)),
        figures=[(name, before[name], now[name]) for name in now],
        candidates=candidate_rows(page),
        domains=domain_rows(page),
        left_out=left_out,
        no_feedback=not page.window.rows["reward"].notna().any(),
        newcomers=sorted(set(page.window.llms) - set(page.reference.llms)),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monitoring.drift"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(TEMPLATE)


def number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.4g}"


def not_raised(signal: Signal, page: Page) -> str:
    if signal.certain or lit_before(signal, page.past[-1:]):
        return "It was raised before and is cooling down."
    return "It waits for a second window."


def lit_before(signal: Signal, past: Sequence[KeptWindow]) -> bool:
    """Whether the last of the past windows showed it too."""
    return bool(past) and any(s.lit and s.key == signal.key for s in past[-1].signals)


def since(signal: Signal, page: Page) -> str:
    """When the run of windows that show it began."""
    began = "this window"
    for count in range(len(page.past), 0, -1):
        if not lit_before(signal, page.past[:count]):
            break
        began = f"{page.past[count - 1].started_at:%Y-%m-%d %H:%M}"
    return began


def candidate_rows(page: Page) -> list[CandidateRow]:
    shares, were = page.window.shares(), page.reference.shares()
    rows = []
    for name, share in shares.items():
        mine = page.window.of_llm(name)
        of_window = figures(Window.of(mine))
        seconds = float(np.exp(residuals(mine)["seconds"].mean()))
        chosen = (of_window[figure] for figure in OF_CANDIDATES)
        rows.append(CandidateRow(name, (were.get(name), share, *chosen, seconds)))
    return rows


def domain_rows(page: Page) -> list[DomainRow]:
    """Those that moved most."""
    now, before = domain_shares(page.window), domain_shares(page.reference)
    rows = [DomainRow(d, before.get(d, 0.0), now.get(d, 0.0)) for d in sorted({*now, *before})]
    return sorted(rows, key=lambda row: -abs(row.now - row.before))[:MOST_DOMAINS]


def plot(page: Page) -> str:
    """The lines through time as SVG; the reference as a dashed line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    before = figures(page.reference)
    lines = [*(window.figures for window in page.past), figures(page.window)]
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
