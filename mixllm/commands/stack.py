"""Commands for this machine: the demo, the local stack, the simulated fleet."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from infra.addresses import LOOPBACK, http_url, without_login
from infra.home import ready_home
from infra.settings import read_settings
from infra.stack import Stack, local_parts
from mixllm.app import app
from mixllm.commands.training import train_with
from mixllm.console import console, say, write_text
from mixllm.context import client_settings, registry, settings_with_stack, store


@app.command()
def demo(
    queries: Annotated[int, typer.Option(min=200, help="Size of the simulated set.")] = 1500,
    show: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 12,
) -> None:
    """Train, register, promote, serve and route on a simulated evaluation set, then stop."""
    from mixllm.demo import run_demo

    settings = read_settings()
    ready_home(settings.home)
    run_demo(settings, queries, show, console, train_with)


@app.command()
def up() -> None:
    """Run the local stack: Postgres, MLflow, Prefect with the flows, the service. Ctrl-C stops it."""
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


@app.command()
def login() -> None:
    """Show the login of the stack's pages: Prefect's, MLflow's and Evidently's."""
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


@app.command()
def fleet(
    catalog: Annotated[
        Path | None, typer.Option(help="Whose LLMs to simulate; --data's, or the demo's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The evaluation set whose outcomes are the answers.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8100,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers at once, per LLM.")] = 8,
    speed: Annotated[float, typer.Option(min=0.001, help="Times faster than the catalog.")] = 1.0,
    instant: Annotated[bool, typer.Option("--instant", help="Answer at once.")] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LLM:KIND=SHARE",
            help="429, 500, hang, broken, slow or garbage, of one LLM or of *; again for more.",
        ),
    ] = None,
    write_catalog: Annotated[
        Path | None, typer.Option(help="Write the catalog with this fleet as every upstream.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 0,
) -> None:
    """Simulate LLMs: a real server of OpenAI's protocol, with the catalog's speeds. Ctrl-C stops it."""
    import asyncio

    from infra import fleet as simulated
    from models.catalog import read_catalog
    from models.data.files import read_evaluation_set
    from models.data.simulated import right_answers, simulated_evaluation_set

    known = simulated_evaluation_set() if data is None else read_evaluation_set(data)
    texts = right_answers() if data is None else None
    entries = read_catalog(catalog) if catalog else known.catalog
    made = simulated.Fleet(
        entries,
        simulated.RecordedAnswers(known, texts),
        concurrency,
        float("inf") if instant else speed,
        seed,
    )
    made.set_faults(simulated.parse_faults(fault or []))

    def announce() -> None:
        """What may be said only once the port is ours."""
        address = http_url(host, port)
        if write_catalog is not None:
            written = simulated.with_upstreams(entries, address, concurrency=concurrency)
            write_text(write_catalog, written.dump_yaml())
            say(f"catalog written to {write_catalog}; serve with MIXLLM_CATALOG={write_catalog}")
        say(f"SIMULATED: {len(entries.llms)} LLMs at {address}/v1; Ctrl-C stops")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await simulated.serve(made, host, port, stop, announce)

    asyncio.run(run())


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Delete decisions, states and reports that are old and needed by nobody."""
    from monitoring.retention import prune as remove

    settings = settings_with_stack()
    gone = remove(store(), registry(settings), settings, dry_run)
    for what, count in gone.items():
        console.print(f"{count} {what} {'would go' if dry_run else 'gone'}")


@app.command()
def doctor() -> None:
    """Check this machine: versions, ports, disk, database, registry, encoder."""
    from infra.doctor import checks

    bad = 0
    for check in checks(client_settings()):
        mark = ("ok ", "green") if check.well else ("bad", "red")
        bad += not check.well
        line = Text.assemble(mark, f" {check.name:<16} {check.found}")
        console.print(line, soft_wrap=True)
        if not check.well and check.remedy:
            console.print(f"    {'':<16} → {check.remedy}", soft_wrap=True)
    if bad:
        raise typer.Exit(1)
