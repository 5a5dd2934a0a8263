"""Tables in Parquet files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.data.tables import limits
from models.data.tables.raw_table import RawTable, check_columns, plain
from models.files.regular_file import MIB, UnusableFile, check_regular

# Rows decoded at a time, before their size is known.
BATCH: Final = 4096


def read_parquet(path: Path, known: Collection[str] | None) -> RawTable:
    check_regular(path, limits.MOST_BYTES)
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
        reason = " ".join(str(error).split())[:300]
        raise UnusableFile(f"is not a readable Parquet file: {reason}") from error


def parquet_rows(path: Path, source: Any, known: Collection[str] | None) -> RawTable:
    opened = pq.ParquetFile(source, thrift_container_size_limit=limits.MOST_ELEMENTS)
    schema, metadata = opened.schema_arrow, opened.metadata
    check_columns(schema.names)
    if not 0 <= metadata.num_rows <= limits.MOST_ROWS:
        raise UnusableFile(
            f"holds {metadata.num_rows:,} rows; at most {limits.MOST_ROWS:,} are read"
        )
    names = [name for name in schema.names if known is None or name in known]
    for name in names:
        check_depth(name, schema.field(name).type)
    claimed = sum(
        part.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if known is None or part.path_in_schema.partition(".")[0] in known
    )
    if claimed > limits.MOST_BYTES:
        raise UnusableFile(f"expands to more than {limits.MOST_BYTES // MIB:,} MiB")
    texts = [name for name in names if is_text(schema.field(name).type)]
    # Repeated text stays a dictionary until its size is known.
    opened = pq.ParquetFile(
        source, read_dictionary=texts, thrift_container_size_limit=limits.MOST_ELEMENTS
    )
    parts: dict[str, list[Any]] = {name: [] for name in names}
    rows = read = 0
    batches = opened.iter_batches(batch_size=BATCH, columns=names, use_threads=False)
    for batch in batches if names else ():
        rows += batch.num_rows
        read += sum(decoded_bytes(column) for column in batch.columns)
        if rows > limits.MOST_ROWS or read > limits.MOST_BYTES:
            raise UnusableFile(
                f"row {rows}: expands to more than {limits.MOST_ROWS:,} rows "
                f"or {limits.MOST_BYTES // MIB:,} MiB"
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
        if depth > limits.MOST_DEPTH:
            raise UnusableFile(f"the column {name!r} is nested more than {limits.MOST_DEPTH} deep")
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
    if (pc.max(lengths).as_py() or 0) > limits.MOST_CELL:
        raise UnusableFile(f"a value is longer than {limits.MOST_CELL // MIB} MiB")
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
