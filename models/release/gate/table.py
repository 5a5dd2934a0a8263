"""The verdict as a table."""

from __future__ import annotations

from models import escape
from models.markdown_table import markdown_table
from models.release.gate.checks import FAILS, NOT_MEASURED, PASSES
from models.release.gate.verdict import RULE, Verdict


def gate_table(verdict: Verdict) -> str:
    """Markdown."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    marks = {PASSES: PASSES, FAILS: f"**{FAILS}**", NOT_MEASURED: NOT_MEASURED}
    against = (
        f"against {escape.markdown(verdict.against)}" if verdict.against else "the first release"
    )
    rows = [
        (
            escape.markdown(c.name),
            shown(c.champion),
            shown(c.release),
            escape.markdown(c.allowed),
            marks[c.state],
            f"no: {escape.markdown(c.excuse)}" if c.excuse else "yes",
            escape.markdown(c.reason),
        )
        for c in verdict.checks
    ]
    lines = [
        f"Release {verdict.version}, {against}, verdict {verdict.number}: **{verdict.word}**.",
        "",
        f"Data: {escape.markdown(str(verdict.data or 'no evaluation set'))}.",
    ]
    if verdict.changed:
        lines += ["", f"Changed since the verdict before: {escape.markdown(verdict.changed)}."]
    lines += [
        "",
        markdown_table(("figure", "champion", "release", "allowed", "", "necessary", ""), rows),
    ]
    return "\n".join([*lines, "", RULE])
