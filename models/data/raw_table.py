"""Tables as their files hold them: every value as written, with the line or row it stands on.

Nothing is converted here, so that a value which turns out wrong can be shown. What is read is
bounded: the file, a cell, a line, the rows, and the text that a small compressed file expands to.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import EvaluationSetError
from models.files.regular_file import MIB, UnusableFile, check_regular, open_text

SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".csv.gz", ".jsonl.gz")
# A table is held in memory several times over while it is checked; RouterBench's is 0.4 GiB.
MOST_BYTES: Final = 1024 * MIB
# 100,000 queries answered by 50 LLMs.
MOST_ROWS: Final = 5_000_000
# Lines of a text file; a query may span many.
MOST_LINES: Final = 10 * MOST_ROWS
# One cell or one line of JSON; a million tokens of text are about 4 MiB.
MOST_CELL: Final = 16 * MIB
# RouterBench has three an LLM.
MOST_COLUMNS: Final = 2_000
# Elements of any list in a Parquet file's footer: columns of some levels, row groups. Arrow reads a
# schema by recursion, and tens of thousands of levels overflow its stack.
MOST_ELEMENTS: Final = 4_000
# Rows decoded at a time, before their size is known.
BATCH: Final = 4096
# Conversations nest 4 deep.
MOST_DEPTH: Final = 32
DELIMITERS: Final = (",", ";", "\t")
PICKLES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz")


class Nested(str):
    """JSON text of a list or an object where a plain value was expected."""

    __slots__ = ()


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read. place: its line. content: as written."""

    place: int
    problem: str
    content: str


@dataclass(frozen=True)
class RawTable:
    """One file's rows. unit: what places count, "line" (of the file, from 1) or "row" (of data, from
    1). columns: name → the rows' values, a list or a NumPy array of numbers. bad: rows beside them
    that could not be read. names: column → what the file calls it, one name or row by row."""

    file: str
    unit: str
    places: Sequence[int]
    columns: dict[str, Any]
    bad: Sequence[BadRow] = field(default=())
    names: dict[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str) -> RawTable:
        """A data frame's rows; missing values become None."""
        columns: dict[str, Any] = {}
        for column in frame.columns:
            values = frame[column]
            if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iufb":
                columns[str(column)] = values.to_numpy()
            else:
                gone = values.isna().to_numpy()
                columns[str(column)] = [
                    None if empty else plain(value)
                    for value, empty in zip(values.tolist(), gone, strict=True)
                ]
        return cls(name, "row", range(1, len(frame) + 1), columns)

    def shown(self, column: str, index: int) -> str:
        """What the file calls a column."""
        name = self.names.get(column, column)
        return name if isinstance(name, str) else name[index]

    def content(self, index: int) -> dict[str, Any]:
        """One row as written."""
        return {
            self.shown(name, index): as_written(values[index])
            for name, values in self.columns.items()
            if values is not None
        }


def plain(value: Any) -> Any:
    """Lists and mappings as ``Nested``; anything else as it is."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | dict | tuple):
        return Nested(json.dumps(value, ensure_ascii=False, default=str))
    return value


def as_written(value: Any) -> Any:
    """A value for messages and for JSON: NumPy's numbers as Python's own."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_table_file(path: Path, known: Collection[str] | None = None) -> RawTable:
    """Read one table by its suffix.

    known: columns to keep, all by default; the rest of a Parquet file is not even decoded, and its
    names stay as columns without values. Raises EvaluationSetError naming the file and the place.
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    try:
        if suffix == ".parquet":
            return read_parquet(path, known)
        if suffix in (".csv", ".csv.gz"):
            return read_csv(path, known)
        if suffix in (".jsonl", ".jsonl.gz"):
            return read_json_lines(path, known)
        check_regular(path, MOST_BYTES)
        raise UnusableFile(f"is of an unknown kind; known: {', '.join(SUFFIXES)}")
    except UnusableFile as error:
        separator = ", " if str(error).startswith("line ") else ": "
        raise EvaluationSetError(f"{path}{separator}{error}") from error


def bounded_lines(file: IO[str], path: Path) -> Iterator[str]:
    """Lines with their ends. Raises UnusableFile for one that is too long, or too many of them."""
    number = read = 0
    try:
        while line := file.readline(MOST_CELL + 1):
            number, read = number + 1, read + len(line)
            if len(line) > MOST_CELL:
                raise UnusableFile(f"line {number}: longer than {MOST_CELL // MIB} MiB")
            if number > MOST_LINES or read > MOST_BYTES:
                raise UnusableFile(
                    f"holds more than {MOST_LINES:,} lines or {MOST_BYTES // MIB:,} MiB of text"
                )
            yield line
    except UnicodeDecodeError as error:
        raise UnusableFile(undecodable(path, error)) from error
    except (OSError, EOFError) as error:
        raise UnusableFile(f"line {number + 1}: cannot be read: {error}") from error
    except Exception as error:
        if type(error).__module__ == "zlib":
            raise UnusableFile(f"line {number + 1}: cannot be decompressed: {error}") from error
        raise


def undecodable(path: Path, error: UnicodeDecodeError) -> str:
    """Which line of the file holds bytes that are not text."""
    if error.encoding != "utf-8":
        return f"is not valid UTF-16 ({error.reason}); save the file as UTF-8"
    with open_text(path, MOST_BYTES) as file:
        raw: IO[bytes] = file.buffer  # type: ignore[attr-defined]
        number = 0
        while data := raw.readline(MOST_CELL):
            number += 1
            try:
                data.decode()
            except UnicodeDecodeError as here:
                byte = data[here.start]
                return f"line {number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
    return "is not UTF-8; save it as UTF-8"


def read_csv(path: Path, known: Collection[str] | None) -> RawTable:
    """Comma-, semicolon- or tab-separated, whichever the header is written with."""
    limit = csv.field_size_limit(MOST_CELL)
    try:
        with open_text(path, MOST_BYTES) as file:
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
            if len(places) >= MOST_ROWS:
                raise UnusableFile(f"line {place}: more than {MOST_ROWS:,} rows")
            places.append(place)
            for values, i in zip(columns, kept, strict=True):
                cell = cells[i]
                if len(cell) < 64 and len(shared) < 100_000:
                    cell = shared.setdefault(cell, cell)
                values.append(cell)
    except csv.Error as error:
        raise UnusableFile(f"line {start}: {csv_problem(str(error))}") from error
    found: dict[str, Any] = dict.fromkeys(filter(None, header))
    found.update(zip((header[i] for i in kept), columns, strict=True))
    return RawTable(path.name, "line", places, found, bad)


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
        return f"a cell is longer than {MOST_CELL // MIB} MiB; is a quote left open?"
    if "expected after" in said:
        return "a quoted cell goes on after its closing quote; double the quotes inside it"
    return said


def delimiter_of(header: str) -> str:
    """The delimiter that splits a header best; a comma when none does."""
    widths = {d: len(next(csv.reader([header], delimiter=d), ())) for d in DELIMITERS}
    return max(DELIMITERS, key=lambda d: widths[d])


def check_columns(names: Sequence[str]) -> None:
    """Raises UnusableFile for columns that are too many, or named twice."""
    if len(names) > MOST_COLUMNS:
        raise UnusableFile(f"has {len(names):,} columns; at most {MOST_COLUMNS:,} are read")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if name in seen:
            raise UnusableFile(
                f"the column {name!r} is duplicated (columns {seen[name]} and {number}); keep one"
            )
        seen[name] = number


class RepeatedKey(ValueError):
    """A key that is twice in one JSON object."""


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKey(next(name for name in names if names.count(name) > 1))
    return found


def read_json_lines(path: Path, known: Collection[str] | None) -> RawTable:
    places: list[int] = []
    bad: list[BadRow] = []
    columns: dict[str, list[Any]] = {}
    others: set[str] = set()
    with open_text(path, MOST_BYTES) as file:
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
            if len(places) >= MOST_ROWS:
                raise UnusableFile(f"line {number}: more than {MOST_ROWS:,} rows")
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
    unread: dict[str, Any] = dict.fromkeys(sorted(others)[:MOST_COLUMNS])
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


def read_parquet(path: Path, known: Collection[str] | None) -> RawTable:
    check_regular(path, MOST_BYTES)
    try:
        with pa.OSFile(str(path)) as source:
            return parquet_rows(path, source, known)
    except UnusableFile:
        raise
    except RecursionError as error:
        raise UnusableFile("is nested too deeply") from error
    except MemoryError as error:
        raise UnusableFile("expands to more than fits into memory") from error
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        said = " ".join(str(error).split())[:300]
        raise UnusableFile(f"is not a readable Parquet file: {said}") from error


def parquet_rows(path: Path, source: Any, known: Collection[str] | None) -> RawTable:
    opened = pq.ParquetFile(source, thrift_container_size_limit=MOST_ELEMENTS)
    schema, metadata = opened.schema_arrow, opened.metadata
    check_columns(schema.names)
    if not 0 <= metadata.num_rows <= MOST_ROWS:
        raise UnusableFile(f"holds {metadata.num_rows:,} rows; at most {MOST_ROWS:,} are read")
    names = [name for name in schema.names if known is None or name in known]
    for name in names:
        check_depth(name, schema.field(name).type)
    claimed = sum(
        part.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if known is None or part.path_in_schema.partition(".")[0] in known
    )
    if claimed > MOST_BYTES:
        raise UnusableFile(f"expands to more than {MOST_BYTES // MIB:,} MiB")
    texts = [name for name in names if is_text(schema.field(name).type)]
    # Repeated text stays a dictionary until its size is known.
    opened = pq.ParquetFile(
        source, read_dictionary=texts, thrift_container_size_limit=MOST_ELEMENTS
    )
    parts: dict[str, list[Any]] = {name: [] for name in names}
    rows = read = 0
    batches = opened.iter_batches(batch_size=BATCH, columns=names, use_threads=False)
    for batch in batches if names else ():
        rows += batch.num_rows
        read += sum(decoded_bytes(column) for column in batch.columns)
        if rows > MOST_ROWS or read > MOST_BYTES:
            raise UnusableFile(
                f"row {rows}: expands to more than {MOST_ROWS:,} rows or {MOST_BYTES // MIB:,} MiB"
            )
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            parts[name].append(values_of(column))
    if names and rows != metadata.num_rows:
        raise UnusableFile(f"holds {rows:,} rows but claims {metadata.num_rows:,}")
    columns: dict[str, Any] = dict.fromkeys(schema.names)
    columns.update({name: joined(chunks) for name, chunks in parts.items()})
    return RawTable(path.name, "row", range(1, rows + 1), columns)


def check_depth(name: str, kind: pa.DataType) -> None:
    """Raises UnusableFile for a column of too many levels."""
    level, depth = [kind], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise UnusableFile(f"the column {name!r} is nested more than {MOST_DEPTH} deep")
        level = [t.field(i).type for t in level for i in range(t.num_fields)]


def is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def decoded_bytes(column: pa.Array) -> int:
    """What a column's values take as text, repeated values counted each time."""
    if not pa.types.is_dictionary(column.type) or not is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary)
    if (pc.max(lengths).as_py() or 0) > MOST_CELL:
        raise UnusableFile(f"a value is longer than {MOST_CELL // MIB} MiB")
    lengths = lengths.take(column.indices)
    return int(pc.sum(lengths).as_py() or 0) + 8 * len(column)


def values_of(column: pa.Array) -> Any:
    """An Arrow column's values: a NumPy array of numbers where none is missing, else a list."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return values_of(column.storage)
    if pa.types.is_dictionary(kind):
        known, places = values_of(column.dictionary), column.indices.to_pylist()
        return [None if place is None else known[place] for place in places]
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if numeric and column.null_count == 0:
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_temporal(kind):
        return column.cast(pa.string()).to_pylist()
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        if not is_text(kind):
            raise
        values = column.cast(pa.large_binary()).to_pylist()
    return [plain(value) for value in values] if pa.types.is_nested(kind) else values


def joined(chunks: list[Any]) -> Any:
    if chunks and all(isinstance(chunk, np.ndarray) for chunk in chunks):
        return np.concatenate(chunks)
    return [value for chunk in chunks for value in chunk]
