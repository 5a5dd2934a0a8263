"""The Typer application that the commands are added to."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="MixLLM: a learned LLM router.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
