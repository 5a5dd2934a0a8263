"""Commands that ask the running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from mixllm.app import SERVE, app
from mixllm.console import console, print_json, show_rows
from mixllm.context import ask_service, client_settings
from mixllm.options import AsJson
from models.errors import MixLLMError

feedback_app = typer.Typer(help="Say how good answers were.")
app.add_typer(feedback_app, name="feedback", no_args_is_help=True, rich_help_panel=SERVE)


@feedback_app.command("import")
def feedback_import(
    file: Annotated[Path, typer.Argument(help="Output items of an OpenAI evaluation, JSON Lines.")],
) -> None:
    """Send the scores of an OpenAI evaluation run to the running service."""
    settings = client_settings()
    try:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise MixLLMError(f"{file}: {error.strerror}") from error
    kept = 0
    for start in range(0, len(lines), IMPORT_LINES):
        body = b"\n".join(lines[start : start + IMPORT_LINES])
        answer = ask_service(settings, "POST", "/v1/feedback/import", content=body)
        kept += answer["kept"]
        for refused in answer["refused"]:
            console.print(f"{file}, line {start + refused['index'] + 1}: {refused['message']}")
    console.print(f"{kept} of {len(lines)} votes kept")


IMPORT_LINES = 1000


@app.command(
    rich_help_panel=SERVE, epilog="Example: mixllm route 'What is 17 * 4?' --candidate gpt-4o"
)
def route(
    query: Annotated[str, typer.Argument(help="What the user asks.")],
    willingness_to_pay: Annotated[
        float | None, typer.Option(help="USD per unit of quality.")
    ] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Choose among these only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running service whom to send a query to, and why."""
    settings = client_settings()
    body = {"query": query, "explain": True, "candidates": candidate or None}
    body["willingness_to_pay"] = willingness_to_pay
    answer = ask_service(settings, "POST", "/v1/route", json=body)
    if as_json:
        print_json(answer)
        return
    console.print(Text.assemble((answer["llm"], "bold"), f"  {answer['explanation']['why']}"))
    columns = {
        "candidate": lambda row: row["llm"],
        "score": lambda row: f"{row['score']:.4f}",
        "quality": lambda row: f"{row['predicted_quality']:.3f}",
        "cost, USD": lambda row: f"{row['predicted_cost_usd']:.6f}",
        "time, s": lambda row: f"{row['predicted_seconds']:.1f}",
        "tokens": lambda row: f"{row['predicted_response_tokens']:.0f}",
    }
    show_rows(answer["explanation"]["scores"][:10], columns)
