"""Tables in JSON Lines files: one object a line."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from models.data.tables import limits
from models.data.tables.lines import bounded_lines
from models.data.tables.raw_table import BadRow, RawTable, check_columns, plain
from models.files.regular_file import UnusableFile, open_text


class RepeatedKey(ValueError):
    """A key that occurs twice in one JSON object."""


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKey(next(name for name in names if names.count(name) > 1))
    return row


def read_json_lines(path: Path, known: Collection[str] | None) -> RawTable:
    places: list[int] = []
    bad: list[BadRow] = []
    columns: dict[str, list[Any]] = {}
    others: set[str] = set()
    with open_text(path, limits.MOST_BYTES) as file:
        for number, line in enumerate(bounded_lines(file, path), start=1):
            if not line.strip():
                continue
            row, problem = json_row(line)
            if row is None:
                if not places and not bad and line.lstrip().startswith("["):
                    raise UnusableFile(
                        f"line {number}: a JSON array; write one object a line instead, "
                        "as `jq -c '.[]' FILE` does"
                    )
                bad.append(BadRow(number, problem, line.rstrip("\r\n")))
                continue
            if len(places) >= limits.MOST_ROWS:
                raise UnusableFile(f"line {number}: more than {limits.MOST_ROWS:,} rows")
            for name, value in row.items():
                if known is not None and name not in known:
                    others.add(name)
                    continue
                if name not in columns:
                    check_columns([*columns, name])
                    columns[name] = [None] * len(places)
                columns[name].append(plain(value))
            places.append(number)
            for values in columns.values():
                if len(values) < len(places):
                    values.append(None)
    if not places and not bad:
        raise UnusableFile("is empty")
    unread: dict[str, Any] = dict.fromkeys(sorted(others)[: limits.MOST_COLUMNS])
    return RawTable(path.name, "line", places, {**unread, **columns}, bad)


def json_row(line: str) -> tuple[dict[str, Any] | None, str]:
    """(one line's object, or None and why)."""
    try:
        row = json.loads(line, object_pairs_hook=object_of)
    except RepeatedKey as error:
        return None, f"has the key {str(error)!r} twice"
    except json.JSONDecodeError as error:
        cut = " (the line ends early)" if error.pos >= len(line.rstrip()) else ""
        return None, f"is not JSON: {error.msg} at character {error.colno}{cut}"
    except RecursionError:
        return None, "is JSON nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        return None, f"is not JSON: {error}"
    return (row, "") if isinstance(row, dict) else (None, "is not a JSON object")
