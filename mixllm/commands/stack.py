"""Commands for this machine: the demo, the local stack, its state."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mixllm.app import START, app
from mixllm.console import console, print_json, say
from mixllm.context import client_settings, settings_with_stack
from mixllm.options import AsJson

if TYPE_CHECKING:
    from infra.doctor import Check


@app.command(rich_help_panel=START)
def demo(
    queries: Annotated[int, typer.Option(min=200, help="Size of the simulated set.")] = 1500,
    show: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 12,
) -> None:
    """Train, register, promote, serve and route on a simulated evaluation set, then stop."""
    from infra.home import ready_home
    from infra.settings import read_settings
    from mixllm.commands.training import train_with
    from mixllm.demo import run_demo

    settings = read_settings()
    ready_home(settings.home)
    run_demo(settings, queries, show, console, partial(train_with, promote=True))


@app.command(rich_help_panel=START)
def up() -> None:
    """Run the local stack: Postgres, MLflow, Prefect with the flows, the service. Ctrl-C stops it."""
    from infra.settings import read_settings
    from infra.stack.parts import local_parts
    from infra.stack.stack import Stack
    from models.drift.alerts import read_rules
    from serving.binding import check_host

    settings = read_settings()
    check_host(settings.host, settings)
    read_rules(settings.alerts)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup wants no end with the terminal; a shell's background jobs ignore Ctrl-C of themselves.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    stack = Stack(settings, say)
    try:
        stack.start(local_parts, stop)
        if not stop.is_set():
            say("login     the pages ask for one; mixllm login shows it")
            say(f"logs      {settings.home / 'logs'}\nready; Ctrl-C stops everything")
        stack.watch(stop)
    finally:
        stack.stop()
        say("stopped")


@app.command(rich_help_panel=START)
def login() -> None:
    """Show the login of the stack's pages: Prefect's, MLflow's and Evidently's."""
    from infra.addresses import LOOPBACK, http_url, without_login
    from infra.guard.credentials import read_credentials
    from infra.guard.guard import login_link

    settings = settings_with_stack()
    credentials = read_credentials(settings.home)
    mlflow = http_url(LOOPBACK, settings.mlflow_port)
    prefect = http_url(LOOPBACK, settings.prefect_port)
    say(f"user      {credentials.user}\npassword  {credentials.password}")
    # A server that runs elsewhere has a login of its own.
    if settings.mlflow_uri in (None, mlflow):
        say(f"mlflow    {login_link(credentials, settings.mlflow_port)}")
    else:
        say(f"mlflow    {without_login(settings.mlflow_uri)}, with its own login")
    say(f"evidently {login_link(credentials, settings.evidently_port)}")
    if settings.prefect_api_url in (None, f"{prefect}/api"):
        say(f"prefect   {prefect}, which asks for {credentials.pair}")
    else:
        say(f"prefect   {without_login(settings.prefect_api_url)}, with its own login")


@app.command(rich_help_panel=START)
def status(as_json: AsJson = False) -> None:
    """Show what runs, which release serves, what waits to be written, which alerts are open."""
    from mixllm.status import read_status, show_status

    state = read_status(client_settings())
    if as_json:
        print_json(state)
    else:
        show_status(state)


@app.command(rich_help_panel=START)
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, ports, disk, database, registry, encoder."""
    from infra.doctor import checks

    results: list[Check] = []
    for check in checks(client_settings()):
        results.append(check)
        if not as_json:
            show_check(check)
    if as_json:
        print_json(results)
    if not all(check.well for check in results):
        raise typer.Exit(1)


def show_check(check: Check) -> None:
    mark = ("ok ", "green") if check.well else ("bad", "red")
    line = Text.assemble(mark, f" {check.name:<16} {check.found}")
    console.print(line, soft_wrap=True)
    if not check.well and check.remedy:
        console.print(f"    {'':<16} → {check.remedy}", soft_wrap=True)
