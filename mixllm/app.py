"""The Typer application that the commands are added to, and the panels of its help."""

from __future__ import annotations

from typing import Annotated, Final

import typer

START: Final = "Start"
TRAIN: Final = "Train and release"
SERVE: Final = "Route and give feedback"
WATCH: Final = "Learn and watch"
STUDY: Final = "Study"

app = typer.Typer(
    help="MixLLM: a learned LLM router.",
    epilog="Try it: mixllm demo. Every command that prints a table takes --json.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the option's value
    if wanted:
        from importlib.metadata import version

        print(f"mixllm {version('mixllm')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """MixLLM: a learned LLM router."""
