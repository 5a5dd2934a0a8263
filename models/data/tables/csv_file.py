"""Tables in CSV files."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from models.data.tables import limits
from models.data.tables.lines import bounded_lines
from models.data.tables.raw_table import BadRow, RawTable, check_columns
from models.files.regular_file import MIB, UnusableFile, open_text

DELIMITERS: Final = (",", ";", "\t")


def read_csv(path: Path, known: Collection[str] | None) -> RawTable:
    """Comma-, semicolon- or tab-separated, whichever the header is written with."""
    limit = csv.field_size_limit(limits.MOST_CELL)
    try:
        with open_text(path, limits.MOST_BYTES) as file:
            lines = bounded_lines(file, path)
            for number, first in enumerate(lines, start=1):
                if first.strip():
                    return csv_rows(path, Counted(first, lines, number), known)
            raise UnusableFile("is empty")
    finally:
        csv.field_size_limit(limit)


def csv_rows(path: Path, lines: Counted, known: Collection[str] | None) -> RawTable:
    delimiter = delimiter_of(lines.first)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    places: list[int] = []
    bad: list[BadRow] = []
    start = lines.number
    try:
        header = [name.strip() for name in next(reader)]
        check_columns([name for name in header if name])
        width = len(header)
        while width and not header[width - 1]:  # a trailing delimiter
            width -= 1
        kept = [i for i in range(width) if header[i] and (known is None or header[i] in known)]
        columns: list[list[Any]] = [[] for _ in kept]
        shared: dict[str, str] = {}  # short values repeat: one object each
        start = lines.number + 1
        for cells in reader:
            place, start = start, lines.number + 1
            if not cells:
                continue
            if len(cells) < width or any(cell.strip() for cell in cells[width:]):
                count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                problem = f"has {count}, the header {width}"
                bad.append(BadRow(place, problem, delimiter.join(cells)))
                continue
            if len(places) >= limits.MOST_ROWS:
                raise UnusableFile(f"line {place}: more than {limits.MOST_ROWS:,} rows")
            places.append(place)
            for values, i in zip(columns, kept, strict=True):
                cell = cells[i]
                if len(cell) < 64 and len(shared) < 100_000:
                    cell = shared.setdefault(cell, cell)
                values.append(cell)
    except csv.Error as error:
        raise UnusableFile(f"line {start}: {csv_problem(str(error))}") from error
    by_name: dict[str, Any] = dict.fromkeys(filter(None, header))
    by_name.update(zip((header[i] for i in kept), columns, strict=True))
    return RawTable(path.name, "line", places, by_name, bad)


class Counted:
    """The header's line and those after it, counted as a reader takes them. number: of the last."""

    def __init__(self, first: str, rest: Iterator[str], number: int) -> None:
        self.first = first
        self._rest = rest
        self.number = number

    def __iter__(self) -> Iterator[str]:
        yield self.first
        for line in self._rest:
            self.number += 1
            yield line


def csv_problem(said: str) -> str:
    """The csv module's error in plain words."""
    if "unexpected end of data" in said:
        return "the row that starts here opens a quote that is never closed"
    if "field larger than" in said:
        return f"a cell is longer than {limits.MOST_CELL // MIB} MiB; is a quote left open?"
    if "expected after" in said:
        return "a quoted cell goes on after its closing quote; double the quotes inside it"
    return said


def delimiter_of(header: str) -> str:
    """The delimiter that splits a header best; a comma when none does."""
    widths = {d: len(next(csv.reader([header], delimiter=d), ())) for d in DELIMITERS}
    return max(DELIMITERS, key=lambda d: widths[d])
