"""Commands for drift, alerts and repairs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mixllm.app import app
from mixllm.console import console
from mixllm.context import ready_to_watch, store

drift = typer.Typer(help="Drift: windows of decisions against the release's first ones.")
app.add_typer(drift, name="drift", no_args_is_help=True)


@drift.command("check")
def drift_check(
    force: Annotated[
        bool, typer.Option("--force", help="However little has come since the last look.")
    ] = False,
) -> None:
    """Look for drift now, as the flow does; writes a report and raises alerts."""
    ready_to_watch()
    from flows.check_drift import check_drift_flow

    found = check_drift_flow(force)
    console.print(found["said"])
    if found["report"]:
        console.print(f"report: {found['report']}", soft_wrap=True)
    for number, name, subject in found["alerts"]:
        about = subject or ""
        console.print(f"alert {number}: {name} {about}; mixllm alerts show {number}")


@drift.command("list")
def drift_list(most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 20) -> None:
    """The windows looked at, with their reports."""
    from monitoring.drift.checks import list_windows

    rows = list_windows(store(), most)
    table = Table("window", "release", "until", "decisions", "lit")
    for row in rows:
        lit = sorted({s["alert"] for s in row["signals"] if s["lit"]})
        table.add_row(
            str(row["id"]),
            row["release_version"],
            row["ended_at"].strftime("%Y-%m-%d %H:%M:%S"),
            str(row["decisions"]),
            ", ".join(lit),
        )
    console.print(table)
    for row in rows:  # addresses are for copying: never folded
        console.print(f"report {row['id']}: {row['report'] or 'not yet'}", soft_wrap=True)


alerts_app = typer.Typer(help="Alerts: what was raised, and what was done about it.")
app.add_typer(alerts_app, name="alerts", no_args_is_help=True)


@alerts_app.command("list")
def alerts_list(most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 50) -> None:
    """Every alert, the newest first."""
    from monitoring.drift.alert_log import list_alerts

    table = Table("alert", "raised", "what", "of", "release", "mode", "state", "outcome")
    for row in list_alerts(store(), most=most):
        table.add_row(
            str(row["id"]),
            row["raised_at"].strftime("%Y-%m-%d %H:%M:%S"),
            row["name"],
            row["subject"] or "",
            row["release_version"],
            row["mode"],
            row["state"],
            row["outcome"] or "",
        )
    console.print(table)


@alerts_app.command("show")
def alerts_show(number: Annotated[int, typer.Argument(help="An alert.")]) -> None:
    """One alert's evidence, and every step that was taken."""
    from models.drift.alerts import KINDS
    from monitoring.drift.alert_log import read_alert
    from monitoring.store.audit import read_audit

    engine = store()
    row = read_alert(engine, number)
    signal, kind = row["signal"], KINDS[row["name"]]
    console.print(Text.assemble((kind.title, "bold"), f" {row['subject'] or ''}"))
    was = "" if signal["reference"] is None else f", was {signal['reference']:.4g}"
    p = "" if signal["p_value"] is None else f", p {signal['p_value']:.2g} (Holm)"
    console.print(
        f"{signal['what']}: {signal['now']:.4g}{was}; effect {signal['effect']:.3g}, "
        f"at least {signal['threshold']:g} matters{p}; {signal['samples']} rows"
    )
    console.print(f"runbook: {kind.page(row['name'])}; repair: {kind.repair}, mode {row['mode']}")
    show_audit(read_audit(engine, number)[::-1])


@alerts_app.command("audit")
def alerts_audit(most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 50) -> None:
    """Every step that the platform took by itself, the newest first."""
    from monitoring.store.audit import read_audit

    show_audit(read_audit(store(), most=most))


def show_audit(rows: list[dict[str, Any]]) -> None:
    table = Table("at", "alert", "what", "why", "result")
    for row in rows:
        table.add_row(
            row["at"].strftime("%Y-%m-%d %H:%M:%S"),
            str(row["alert_id"] or ""),
            row["what"],
            row["why"],
            row["result"],
        )
    console.print(table)


@app.command()
def repair() -> None:
    """Mend what open alerts say now, each by its mode, as the flow does."""
    ready_to_watch()
    from flows.repairs.flow import repair as mend

    found = mend()
    for number, outcome in found["closed"]:
        console.print(f"alert {number}: {outcome}", soft_wrap=True)
    for number, _ in found["waiting"]:
        console.print(f"alert {number}: still open; mixllm alerts show {number}")
    if not found["closed"] and not found["waiting"]:
        console.print("no alert is open")
