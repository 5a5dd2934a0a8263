"""The command that simulates LLMs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixllm.app import STUDY, app
from mixllm.console import say, write_text

if TYPE_CHECKING:
    from infra.fleet.server import Fleet


@app.command(
    rich_help_panel=STUDY, epilog="Example: mixllm fleet --instant --write-catalog fleet.yaml"
)
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

    from infra.addresses import http_url
    from infra.fleet.answers import RecordedAnswers
    from infra.fleet.server import Fleet, parse_faults, with_upstreams
    from models.catalog_file import read_catalog
    from models.data.files import read_evaluation_set
    from models.data.simulated import right_answers, simulated_evaluation_set

    known = simulated_evaluation_set() if data is None else read_evaluation_set(data)
    texts = right_answers() if data is None else None
    entries = read_catalog(catalog) if catalog else known.catalog
    factor = float("inf") if instant else speed
    made = Fleet(entries, RecordedAnswers(known, texts), concurrency, factor, seed)
    made.set_faults(parse_faults(fault or []))

    def announce() -> None:
        """Say it only once the port is ours."""
        address = http_url(host, port)
        if write_catalog is not None:
            written = with_upstreams(entries, address, concurrency=concurrency)
            write_text(write_catalog, written.dump_yaml())
            say(f"catalog written to {write_catalog}; serve with MIXLLM_CATALOG={write_catalog}")
        say(f"SIMULATED: {len(entries.llms)} LLMs at {address}/v1; Ctrl-C stops")

    asyncio.run(serve_until_signal(made, host, port, announce))


async def serve_until_signal(
    fleet: Fleet, host: str, port: int, listening: Callable[[], None]
) -> None:
    """Answer until Ctrl-C or SIGTERM. listening: called once the port is ours."""
    import asyncio

    from infra.fleet.server import serve

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(fleet, host, port, stop, listening)
