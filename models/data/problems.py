"""Bad rows of an evaluation set: named, summed up, set aside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pandera.pandas as pa

from models.data.tables.raw_table import RawTable, as_written
from models.errors import EvaluationSetError, nearest

PROBLEM_COLUMNS: Final = ("table", "index", "column", "problem")
NOT_IN_CATALOG: Final = "is not in the catalog"
# Of a message: kinds of problem, and characters of a value.
MOST_PROBLEMS: Final = 20
MOST_SHOWN: Final = 80


def rows_text(count: int) -> str:
    return f"{count} bad row" if count == 1 else f"{count} bad rows"


def failures(table: str, schema: pa.DataFrameSchema, frame: pd.DataFrame) -> pd.DataFrame:
    """One table's broken rules, as Pandera reports them."""
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.assign(table=table, problem=error.failure_cases["check"])
        unplaced = cases[cases["index"].isna()]
        if not unplaced.empty:  # a rule that could not be applied is a bug of ours, not a bad row
            raise EvaluationSetError(f"{table}: {unplaced['problem'].iloc[0]}") from error
        found: pd.DataFrame = cases[list(PROBLEM_COLUMNS)].drop_duplicates()
        return found
    return pd.DataFrame(columns=list(PROBLEM_COLUMNS))


def listed(found: pd.DataFrame) -> list[tuple[str, int, str, str]]:
    """(table, index, column, problem) of each."""
    return list(zip(*(found[column].tolist() for column in PROBLEM_COLUMNS), strict=True))


def with_places(found: pd.DataFrame, raw: Mapping[str, RawTable]) -> pd.DataFrame:
    """Problems with file, place, column and value as the file has them."""
    rows: list[tuple[Any, ...]] = []
    for table, index, column, problem in listed(found):
        source = raw[table]
        value = None if column == "pair" else as_written(source.columns[column][index])
        shown = "query_id, llm" if column == "pair" else source.shown(column, index)
        rows.append((source.file, source.unit, source.places[index], shown, problem, value))
    rows += [
        (table.file, table.unit, bad.place, None, bad.problem, None)
        for table in raw.values()
        for bad in table.bad
    ]
    return pd.DataFrame(rows, columns=["file", "unit", "place", "column", "problem", "value"])


def summary(found: pd.DataFrame, name: str, names: Sequence[str]) -> str:
    """One line a kind of problem: where, what, how many."""
    lines: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in found.astype(object).to_dict("records"):
        # Each unknown LLM is a problem of its own; wrong numbers differ row by row.
        kind = row["value"] if row["problem"] == NOT_IN_CATALOG else None
        lines.setdefault((row["file"], row["column"], row["problem"], kind), []).append(row)
    written = []
    for rows in list(lines.values())[:MOST_PROBLEMS]:
        first = rows[0]
        column = "" if first["column"] is None else f", column {first['column']!r}"
        value = "" if first["value"] in (None, "") else f" {clipped(first['value'])}"
        hint = ""
        if first["problem"] == NOT_IN_CATALOG:
            hint = f"; {nearest(str(first['value']).strip(), names)}"
        count = f"{len(rows)} rows in all" if len(rows) > 1 else "1 row"
        place = f"{first['file']} {first['unit']} {first['place']}{column}"
        written.append(f"{place}:{value} {first['problem']}{hint} ({count})")
    if len(lines) > MOST_PROBLEMS:
        written.append(f"and {len(lines) - MOST_PROBLEMS} more kinds of problem")
    bad = int(found[["file", "place"]].drop_duplicates().shape[0])
    return (
        f"{name}: {rows_text(bad)}:\n  "
        + "\n  ".join(written)
        + "\nfix them, or set them aside with --quarantine FILE"
    )


def clipped(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"


def records(
    found: pd.DataFrame, raw: Mapping[str, RawTable], *, unread: bool
) -> list[dict[str, Any]]:
    """What the quarantine file says of each problem, the row as written with it. unread: whether
    rows that could not be read are among them."""
    rows = []
    for table, index, column, problem in listed(found):
        source = raw[table]
        place = {"file": source.file, source.unit: int(source.places[index])}
        if column == "pair":
            named: dict[str, Any] = {"column": "query_id, llm"}
        else:
            value = as_written(source.columns[column][index])
            named = {"column": source.shown(column, index), "value": value}
        rows.append({**place, **named, "problem": problem, "content": source.content(index)})
    for source in raw.values() if unread else ():
        rows += [
            {"file": source.file, source.unit: b.place, "problem": b.problem, "content": b.content}
            for b in source.bad
        ]
    return rows


def write_quarantine(rows: Sequence[Mapping[str, Any]], path: Path | None) -> None:
    """Write bad rows as JSON Lines, replacing the file. Raises EvaluationSetError."""
    if path is None:
        raise ValueError("quarantine needs a path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise EvaluationSetError(f"{path}: cannot be written: {error.strerror or error}") from error
