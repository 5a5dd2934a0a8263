"""Reads a table of any kind, by its suffix."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from models.data.tables import limits
from models.data.tables.csv_file import read_csv
from models.data.tables.json_lines import read_json_lines
from models.data.tables.parquet_file import read_parquet
from models.data.tables.raw_table import RawTable
from models.errors import EvaluationSetError
from models.files.regular_file import UnusableFile, check_regular

SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".csv.gz", ".jsonl.gz")


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
        check_regular(path, limits.MOST_BYTES)
        raise UnusableFile(f"is of an unknown kind; known: {', '.join(SUFFIXES)}")
    except UnusableFile as error:
        separator = ", " if str(error).startswith("line ") else ": "
        raise EvaluationSetError(f"{path}{separator}{error}") from error
