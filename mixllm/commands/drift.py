"""Commands for drift, alerts and repairs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from mixllm.app import WATCH, app
from mixllm.console import Columns, console, print_json, show_rows, to_second
from mixllm.context import ready_to_watch, store
from mixllm.options import AsJson

drift = typer.Typer(help="Drift: windows of decisions against the release's first ones.")
app.add_typer(drift, name="drift", no_args_is_help=True, rich_help_panel=WATCH)


@drift.command("check")
def drift_check(
    force: Annotated[
        bool, typer.Option("--force", help="Check even if few decisions have come.")
    ] = False,
) -> None:
    """Look for drift now, as the flow does; writes a report and raises alerts."""
    ready_to_watch()
    from flows.check_drift import check_drift_flow

    check = check_drift_flow(force)
    console.print(check["message"])
    if check["report"]:
        console.print(f"report: {check['report']}", soft_wrap=True)
    for number, name, subject in check["alerts"]:
        about = subject or ""
        console.print(f"alert {number}: {name} {about}; mixllm alerts show {number}")


@drift.command("list")
def drift_list(
    most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 20, as_json: AsJson = False
) -> None:
    """The windows that were checked, with their reports."""
    from monitoring.drift.window_log import list_windows

    rows = list_windows(store(), most)
    columns = {
        "window": lambda row: str(row["id"]),
        "release": lambda row: row["release_version"],
        "until": lambda row: to_second(row["ended_at"]),
        "decisions": lambda row: str(row["decisions"]),
        "lit": lambda row: ", ".join(sorted({s["alert"] for s in row["signals"] if s["lit"]})),
    }
    show_rows(rows, columns, as_json=as_json)
    for row in () if as_json else rows:  # addresses are for copying: never folded
        console.print(f"report {row['id']}: {row['report'] or 'not yet'}", soft_wrap=True)


alerts_app = typer.Typer(help="Alerts: what was raised, and what was done about it.")
app.add_typer(alerts_app, name="alerts", no_args_is_help=True, rich_help_panel=WATCH)


@alerts_app.command("list")
def alerts_list(
    most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 50, as_json: AsJson = False
) -> None:
    """Every alert, the newest first."""
    from monitoring.drift.alert_log import list_alerts

    columns = {
        "alert": lambda row: str(row["id"]),
        "raised": lambda row: to_second(row["raised_at"]),
        "what": lambda row: row["name"],
        "of": lambda row: row["subject"] or "",
        "release": lambda row: row["release_version"],
        "mode": lambda row: row["mode"],
        "state": lambda row: row["state"],
        "outcome": lambda row: row["outcome"] or "",
    }
    show_rows(list_alerts(store(), most=most), columns, as_json=as_json)


@alerts_app.command("show")
def alerts_show(
    number: Annotated[int, typer.Argument(help="An alert.")], as_json: AsJson = False
) -> None:
    """One alert's evidence, and every step that was taken."""
    from models.drift.alerts import KINDS
    from monitoring.drift.alert_log import read_alert
    from monitoring.store.audit import read_audit

    engine = store()
    row = read_alert(engine, number)
    steps = read_audit(engine, number)[::-1]
    if as_json:
        print_json({**row, "steps": steps})
        return
    signal, kind = row["signal"], KINDS[row["name"]]
    console.print(Text.assemble((kind.title, "bold"), f" {row['subject'] or ''}"))
    was = "" if signal["reference"] is None else f", was {signal['reference']:.4g}"
    p = "" if signal["p_value"] is None else f", p {signal['p_value']:.2g} (Holm)"
    console.print(
        f"{signal['what']}: {signal['now']:.4g}{was}; effect {signal['effect']:.3g}, "
        f"at least {signal['threshold']:g} matters{p}; {signal['samples']} rows"
    )
    console.print(f"runbook: {kind.page(row['name'])}; repair: {kind.repair}, mode {row['mode']}")
    show_rows(steps, AUDIT)


@alerts_app.command("audit")
def alerts_audit(
    most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 50, as_json: AsJson = False
) -> None:
    """Every step that the platform took by itself, the newest first."""
    from monitoring.store.audit import read_audit

    show_rows(read_audit(store(), most=most), AUDIT, as_json=as_json)


AUDIT: Columns = {
    "at": lambda row: to_second(row["at"]),
    "alert": lambda row: str(row["alert_id"] or ""),
    "what": lambda row: row["what"],
    "why": lambda row: row["why"],
    "result": lambda row: row["result"],
}


@app.command(rich_help_panel=WATCH)
def repair() -> None:
    """Repair what open alerts say now, each by its mode, as the flow does."""
    ready_to_watch()
    from flows.repairs.flow import repair as run_repairs

    repairs = run_repairs()
    for number, outcome in repairs["closed"]:
        console.print(f"alert {number}: {outcome}", soft_wrap=True)
    for number, _ in repairs["waiting"]:
        console.print(f"alert {number}: still open; mixllm alerts show {number}")
    if not repairs["closed"] and not repairs["waiting"]:
        console.print("no alert is open")
