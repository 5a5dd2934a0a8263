"""What commands print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mixllm.terminal import open_console
from models.errors import (
    MixLLMError,
)

# Where nobody looks at a terminal, tables are not folded to its default width.
console = open_console(width=None if sys.stdout.isatty() else 120)


def show_notes(notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


def say(line: str) -> None:
    """One line, however long it is: the last of a command."""
    console.print(line, soft_wrap=True, highlight=False)


def outcome(made: dict[str, Any]) -> str:
    """What became of a release that a flow made, and why."""
    state = {
        "champion": "champion",
        "challenger": f"challenger; promote it: mixllm promote {made['version']}",
        "refused": "refused by its gate",
    }[made["state"]]
    return f"{state}; gate: {made['reason']}"


def show_measures(results: dict[str, Any]) -> None:
    """The table of measures, with what was left out."""
    from models.evaluation.evaluate import measures_table

    heads = ["router", "AIQ", "gap closed", "cost at 97.25 % quality", "quality at 24.18 % cost"]
    table = Table(
        *heads,
        "AIQ of mixllm over it",
        title=f"{results['test_set']}, {results['test_queries']} queries",
    )
    for row in measures_table(results):
        table.add_row(*row.values())
    console.print(table)
    for row in results["predictors"]:
        if row["flags"]:
            console.print(f"predictor of {row['llm']}: {row['flags']}. {row['advice']}")
    for note in results["notes"]:
        console.print(f"note: {note}")


def write_text(path: Path, text: str) -> None:
    """Write a file a user named. Raises MixLLMError."""
    try:
        path.write_text(text)
    except OSError as error:
        raise MixLLMError(f"{path} cannot be written: {error.strerror}") from error
