"""What commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from mixllm.terminal import open_console
from models.errors import MixLLMError

# Where nobody looks at a terminal, tables are not folded to its default width.
console = open_console(width=None if sys.stdout.isatty() else 120)
errors = open_console(stderr=True)

# Heading → a row's cell.
Columns = Mapping[str, Callable[[Any], str]]


def show_rows(
    rows: Sequence[Any], columns: Columns, *, as_json: bool = False, empty: str = ""
) -> None:
    """Rows as a table, or whole as JSON. empty: what is said in place of a table of no rows."""
    if as_json:
        print_json(rows)
        return
    if not rows and empty:
        console.print(empty, soft_wrap=True)
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console.print(table)


def print_json(value: Any) -> None:
    """Strict JSON on standard output; what is not finite is null."""
    from pydantic_core import to_jsonable_python

    plain = to_jsonable_python(value, inf_nan_mode="null", serialize_unknown=True)
    print(json.dumps(plain, indent=2, allow_nan=False))


def to_second(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def to_minute(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def show_notes(notes: Sequence[str]) -> None:
    """On standard error: they are no part of a result."""
    for note in notes:
        errors.print(f"note: {note}", soft_wrap=True)


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
    from models.evaluation.measures import Measured

    heads = ["router", "AIQ", "gap closed", "cost at 97.25 % quality", "quality at 24.18 % cost"]
    table = Table(
        *heads,
        "AIQ of mixllm over it",
        title=f"{results['test_set']}, {results['test_queries']} queries",
    )
    measures = {name: Measured.of_dict(cells) for name, cells in results["measures"].items()}
    for row in measures_table(measures):
        table.add_row(*row.values())
    console.print(table)
    for row in results["predictors"]:
        if row["flags"]:
            console.print(f"predictor of {row['llm']}: {row['flags']}. {row['advice']}")
    show_notes(results["notes"])


def write_text(path: Path, text: str) -> None:
    """Write a file a user named. Raises MixLLMError."""
    try:
        path.write_text(text)
    except OSError as error:
        raise MixLLMError(f"{path} cannot be written: {error.strerror}") from error
