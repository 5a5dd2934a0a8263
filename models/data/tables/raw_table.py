"""A table as its file holds it: every value as written, with the line or row it stands on.

Nothing is converted here, so that a value which turns out wrong can be shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from models.data.tables import limits
from models.files.regular_file import UnusableFile


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


def check_columns(names: Sequence[str]) -> None:
    """Raises UnusableFile for columns that are too many, or named twice."""
    if len(names) > limits.MOST_COLUMNS:
        raise UnusableFile(f"has {len(names):,} columns; at most {limits.MOST_COLUMNS:,} are read")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if name in seen:
            raise UnusableFile(
                f"the column {name!r} is duplicated (columns {seen[name]} and {number}); keep one"
            )
        seen[name] = number
