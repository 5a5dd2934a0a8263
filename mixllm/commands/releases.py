"""Commands for releases: judge, promote, roll back, canary, shadow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixllm.app import TRAIN, app
from mixllm.console import console, print_json, say, show_rows, to_minute
from mixllm.context import registry, settings_with_stack, store
from mixllm.options import AsJson, GateData
from models.errors import MixLLMError, NoRelease, ReleaseError

if TYPE_CHECKING:
    from infra.settings import Settings
    from models.release.gate.verdict import Verdict

Changed = Annotated[
    str, typer.Option(help="What has changed since it was refused on the same data.")
]


@app.command(rich_help_panel=TRAIN, epilog="Example: mixllm judge 7 --data held-out")
def judge(
    version: Annotated[str, typer.Argument(help="A release's version.")],
    data: GateData = None,
    changed: Changed = "",
    as_json: AsJson = False,
) -> None:
    """The gate: is a release no worse than the champion? Adds a verdict to the release's history."""
    settings = settings_with_stack()
    opened = registry(settings)
    champion = opened.alias("champion")
    opened.tags(version)  # a release that is not there is named before anything starts
    if champion == version:
        raise ReleaseError(
            f"release {version} is the champion: there is nothing to judge it against"
        )
    verdict = judged(settings, version, champion, data, changed)
    if as_json:
        print_json(verdict)
    else:
        show_verdict(verdict)
        say(verdict_line(version, verdict.number, verdict.reason))
    if not verdict.passes:
        raise typer.Exit(1)


def verdict_line(version: str, number: int, reason: str) -> str:
    return f"release {version}, verdict {number}: {reason}"


def judged(
    settings: Settings, version: str, champion: str | None, data: Path | None, changed: str = ""
) -> Verdict:
    """A new verdict of the gate."""
    from models.data.files import read_evaluation_set
    from monitoring.release_gate.judge import Trial, judge_release

    if data is not None:
        read_evaluation_set(data)  # what is wrong with it is named before anything starts
    trial = Trial(version, champion, data, changed=changed)
    return judge_release(registry(settings), store(), settings, trial)


def show_verdict(verdict: Verdict) -> None:
    from rich.markdown import Markdown

    from models.release.gate.table import gate_table

    console.print(Markdown(gate_table(verdict)))


@app.command(rich_help_panel=TRAIN, epilog="Example: mixllm promote 7")
def promote(
    version: Annotated[str, typer.Argument(help="A release's version.")],
    force: Annotated[bool, typer.Option("--force", help="Skip the promotion gate.")] = False,
    data: GateData = None,
) -> None:
    """Make a release champion, if it passes its gate; running services pick it up.

    The verdict that a release has against the champion of now counts; one without is judged first.
    """
    from monitoring.release_gate.judge import callable_now, standing_verdict

    settings = settings_with_stack()
    opened = registry(settings)
    opened.tags(version)
    champion = opened.alias("champion")
    reason = "it was champion already"
    if force:
        opened.force(version)
        standing = standing_verdict(opened, version)
        reason = f"gate skipped ({standing['reason'] if standing else 'no verdict'})"
    elif champion != version:
        standing = standing_verdict(opened, version)
        if standing is not None and (data is None or judged_by(standing, data)):
            number, word, reason = (standing[key] for key in ("number", "verdict", "reason"))
        else:
            verdict = judged(settings, version, champion, data)
            show_verdict(verdict)
            number, word, reason = verdict.number, verdict.word, verdict.reason
        if word != "passes":
            raise ReleaseError(
                f"{verdict_line(version, number, reason)}; judge it again once something has "
                f"changed: mixllm judge {version}, or promote it all the same: --force"
            )
        now = callable_now(opened, settings, version, champion)
        if not now.holds:  # the catalog, or who is disabled, may have changed since the verdict
            raise ReleaseError(f"release {version} is not promoted: {now.reason}; or use --force")
        reason = f"verdict {number}: {reason}"
    opened.promote(version)
    say(f"release {version} is champion; {reason}")


def judged_by(verdict: dict[str, Any], data: Path) -> bool:
    """Whether a verdict rests on this evaluation set. Raises EvaluationSetError."""
    from models.data.files import read_evaluation_set

    digest: str = read_evaluation_set(data).digest
    return verdict["data"] is not None and verdict["data"]["digest"] == digest


@app.command(rich_help_panel=TRAIN)
def rollback() -> None:
    """Make the previous champion champion again."""
    opened = registry(settings_with_stack())
    version = opened.rollback()
    history = opened.verdicts(version)
    last = f"; its last verdict: {history[-1]['reason']}" if history else ""
    say(f"release {version} is champion again{last}")


@app.command(rich_help_panel=TRAIN, epilog="Example: mixllm releases 7")
def releases(
    version: Annotated[
        str | None, typer.Argument(help="A release's version: every verdict on it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the registered releases, or every verdict of the gate on one of them."""
    from datetime import datetime

    from infra.registry.records import gate_state

    opened = registry(settings_with_stack())
    if version is not None:
        show_verdicts(version, opened.verdicts(version), as_json=as_json)
        return
    rows = opened.releases()
    if not rows and not as_json:
        raise NoRelease("no release is registered yet: mixllm train --data DIR --promote")
    columns = {
        "version": lambda row: row.version,
        "aliases": lambda row: ", ".join(row.aliases),
        "registered": lambda row: to_minute(datetime.fromtimestamp(row.created)),
        "AIQ": lambda row: row.tags.get("metric.aiq", ""),
        "gap closed": lambda row: row.tags.get("metric.gap_closed", ""),
        "data": lambda row: row.tags.get("data_digest", "")[:8],
        "code": lambda row: row.tags.get("code_revision", ""),
        "gate": lambda row: gate_state(row.tags),
    }
    show_rows(rows, columns, as_json=as_json)
    for row in () if as_json else rows:
        if (why := row.tags.get("serving.refused")) is not None:
            say(f"the service does not load release {row.version}: {why}")


def show_verdicts(version: str, history: list[dict[str, Any]], *, as_json: bool) -> None:
    """Every verdict on a release, the oldest first; the last one counts."""

    def data_of(row: dict[str, Any]) -> str:
        data = row["data"]
        return (
            f"{data['name']} {data['digest'][:12]}, {data['queries']} queries" if data else "none"
        )

    columns = {
        "verdict": lambda row: str(row["number"]),
        "at": lambda row: row["at"],
        "against": lambda row: row["against"] or "nobody",
        "data": data_of,
        "": lambda row: row["verdict"],
        "why": lambda row: row["reason"],
        "changed since": lambda row: row["changed"],
    }
    unjudged = f"release {version} has not been judged: mixllm judge {version}"
    show_rows(history, columns, as_json=as_json, empty=unjudged)
    if history and not as_json:
        last = history[-1]
        say(f"{verdict_line(version, last['number'], last['reason'])}; this one counts")


@app.command(rich_help_panel=TRAIN, epilog="Example: mixllm canary 0.1 --by keys")
def canary(
    share: Annotated[
        float, typer.Argument(min=0, max=1, help="What the challenger answers; 0 ends it.")
    ],
    by: Annotated[str, typer.Option(help="keys or traffic.")] = "traffic",
) -> None:
    """Let the challenger answer a share of the keys or of the traffic; an alert ends it by itself."""
    from infra.registry.records import CHALLENGER, Canary
    from monitoring.release_gate.judge import callable_now

    settings = settings_with_stack()
    opened = registry(settings)
    if by not in ("keys", "traffic"):
        raise MixLLMError(f"--by {by}: keys or traffic")
    version = opened.alias(CHALLENGER)
    if share == 0:
        opened.set_canary(None)
        console.print("no canary: the champion answers everybody")
        return
    if version is None:
        raise NoRelease("there is no challenger; see: mixllm releases")
    if (why := opened.refused(version)) is not None:
        raise ReleaseError(f"release {version} is refused by its gate: {why}")
    now = callable_now(opened, settings, version, opened.champion())
    if not now.holds:
        raise ReleaseError(f"release {version} cannot answer queries: {now.reason}")
    opened.set_canary(Canary(version, share, by))
    console.print(f"release {version} answers {share:.1%} of the {by}; mixllm canary 0 ends it")


@app.command(rich_help_panel=TRAIN)
def shadow() -> None:
    """What the challenger would have chosen on live queries."""
    from infra.registry.records import CHALLENGER
    from models.release.manifest import read_manifest
    from monitoring.store.shadows import shadow_summary

    opened = registry(settings_with_stack())
    version = opened.alias(CHALLENGER)
    if version is None:
        raise NoRelease("there is no challenger; see: mixllm releases")
    said = shadow_summary(store(), read_manifest(opened.fetch(version)).digest)
    console.print(f"release {version}: {said or 'has decided nothing in shadow yet'}")
