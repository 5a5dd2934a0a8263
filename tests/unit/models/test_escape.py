"""Names and texts of others do nothing in our pages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from experiments.latency.report import traffic_table
from models import escape
from models.domains.audit import TagAudit, audit_text, plot_audit
from models.release.gate.checks import PASSES, Check
from models.release.gate.table import gate_table
from models.release.gate.verdict import Verdict

TABLE = "|" + " a |" * 7 + "\n|" + " --- |" * 7 + "\n"
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/pixel)",
    "[click](javascript:alert(1))",
    "<http://evil.example>",
    "http://evil.example/",
    "https://evil.example www.evil.example a@evil.example",
    "`code` **bold** _it_ ~~gone~~ $x$ \\[y\\]",
    "one | two\n| three |\n\n# heading",
    "&lt;script&gt; &#60;b&#62;",
    "\\<script>\\",
    "]: http://evil.example",
)


def rendered(text: str) -> str:
    """As an eager renderer shows it: HTML and tables."""
    eager = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(eager.render(text))


@pytest.mark.parametrize("attack", ATTACKS)
def test_markdown_shows_a_text_as_it_is(attack: str) -> None:
    line = " ".join(attack.split())
    shown = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert rendered(f"x {escape.markdown(attack)} x").strip() == f"<p>x {shown} x</p>"
    table = rendered(f"| a | b |\n| --- | --- |\n| {escape.markdown(attack)} | end |\n")
    assert f"<td>{shown}</td>\n<td>end</td>" in table
    for address in ("://", "www.", "a@"):  # of which some renderers make links
        assert address not in escape.markdown(attack)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_audit_of_such_queries_is_shown_and_plotted(attack: str, tmp_path: Path) -> None:
    domain = {"name": attack, "queries": 3, "tags": 2, "source": attack, "purity": 1.0}
    group = {"queries": 1, "source": attack, "examples": [attack]}
    audit = TagAudit(
        queries=4, tags=2, tagged=1.0, with_domain=0.75, nmi=0.5, ari=0.5, domains=[domain],
        sources=[attack], table=np.ones((2, 1), int), untagged=[group],
    )  # fmt: skip
    page = rendered(audit_text(audit))
    for mark in ("<script", "<img", "<a ", "<code", "<strong", "<h1"):
        assert mark not in page
    plot_audit(audit, tmp_path / "audit.png")
    assert (tmp_path / "audit.png").is_file()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_page_of_a_flow_is_changed_by_a_name(attack: str) -> None:
    """Prefect shows a table's cells of text as Markdown too."""
    check = Check(attack, 1.0, 1.0, attack, PASSES, attack, attack)
    verdict = Verdict("2", attack, (check,), changed=attack)
    row = {"worth": 1.0, "cost_usd": 1.0, "late": 0.0, "seconds_p50": 1.0, "seconds_p95": 1.0}
    curve = [{**row, "shares": {attack: 1.0}}]
    setting = {"queries": 1, "rate": 1.0, "candidates": 1, "concurrency": 1, "time_limit": 1.0}
    traffic: dict[str, Any] = {"set": attack, "setting": setting}
    traffic["simulated"] = [{"beta": 0.1, "aiq": 0.5, "curve": curve}]
    cells = escape.markdown_rows([{"check": "answers", "found": attack, "count": 3}])
    assert (cells[0]["check"], cells[0]["count"]) == ("answers", 3)
    for text in (gate_table(verdict), traffic_table(traffic), str(cells[0]["found"])):
        page = rendered(text)
        for mark in ("<script", "<img", "<a ", "<code", "<h1", "<em"):
            assert mark not in page
    (line,) = [x for x in gate_table(verdict).splitlines() if x.endswith("|")][2:]
    assert rendered(f"{TABLE}{line}").count("<td") == 7


def test_a_plot_shows_dollars() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0, 0, escape.label(r"costs $\frac and $5"))
    figure.canvas.draw()


def test_chat_calls_nobody() -> None:
    text = escape.chat("voter <!channel> @here <http://evil.example|x> [a](http://evil.example)")
    assert not set("<>@") & set(text)
    assert "](" not in text
