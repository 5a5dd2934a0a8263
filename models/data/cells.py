"""Cells of a table, as files write them → text, queries and numbers; or why not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from models.data.tables.raw_table import Nested
from models.files.numerals import read_number
from models.queries.conversation import read_conversation

PERCENT: Final = re.compile(r"([^%]+?)\s*%")
# What tools write for "no value". Only where a value may be missing: a query may be "NA".
MISSING: Final = {"", "nan", "na", "n/a", "null", "none"}
YES: Final = {"true", "yes"}
NO: Final = {"false", "no"}
ROLES: Final = {"system", "developer", "user", "assistant", "tool", "function"}
# Whole numbers beyond this are not exact as floating-point numbers.
EXACT: Final = 2**53


class BadCell(ValueError):
    """Why a cell cannot be used."""


def is_missing(value: Any) -> bool:
    """Whether a cell says that there is no value."""
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return is_nan(value)


def is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and value != value


def text(value: Any) -> str:
    """An id or a name: text without outer spaces; a whole number as its digits. Raises BadCell."""
    return storable(_text(value).strip())


def _text(value: Any) -> str:
    if value is None or is_nan(value):
        raise BadCell("is missing")
    if isinstance(value, Nested):
        raise BadCell("is a list or an object, not text")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadCell("is not UTF-8 text") from error
    if isinstance(value, bool | np.bool_):
        raise BadCell("is a truth value, not text")
    if isinstance(value, float | np.floating):
        found = float(value)
        if found.is_integer() and abs(found) >= EXACT:
            raise BadCell("is too large to be exact as a number; write it as text")
        if found.is_integer():
            return str(int(found))
        raise BadCell("is not a whole number; write ids and names as text")
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    return str(value)


def storable(found: str) -> str:
    """Text that files and databases can hold. Raises BadCell."""
    if not found.strip():
        raise BadCell("is empty")
    if "\x00" in found:
        raise BadCell("contains the character U+0000")
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise BadCell("contains half of a surrogate pair") from error
    return found


def query(value: Any) -> str:
    """A query's text: as written, or of a chat's messages what the gateway routes. Raises BadCell."""
    if isinstance(value, str):
        messages = chat(value)
        if messages is not None:
            found = read_conversation(messages).text
            if not found.strip():
                raise BadCell("is a conversation without text")
            return storable(found)
        if isinstance(value, Nested):
            raise BadCell('is neither text nor chat messages ([{"role": …, "content": …}])')
    if isinstance(value, float) and math.isfinite(value) and value % 1:
        return str(value)
    return storable(_text(value))


def chat(written: str) -> list[dict[str, Any]] | None:
    """The messages of a chat written as JSON, alone or under "messages"; None for anything else."""
    start = written.lstrip()[:1]
    if start not in ("[", "{") or '"role"' not in written:
        return None
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        found = found.get("messages")
    if not isinstance(found, list) or not found:
        return None
    said = all(
        isinstance(message, dict) and message.get("role") in ROLES and "content" in message
        for message in found
    )
    return found if said else None


def number(value: Any) -> float:
    """A finite number. Raises BadCell."""
    if isinstance(value, bool | np.bool_):
        raise BadCell("is a truth value, not a number")
    if isinstance(value, str) and not isinstance(value, Nested):
        if not value.strip():
            raise BadCell("is missing")
        try:
            return finite(read_number(value))
        except BadCell:
            raise
        except ValueError as error:
            raise BadCell(str(error)) from error
    elif value is None:
        raise BadCell("is missing")
    elif isinstance(value, int | float | Decimal | np.number):
        try:
            return finite(float(value))
        except OverflowError as error:
            raise BadCell("is too large") from error
    raise BadCell("is not a number")


def finite(value: float) -> float:
    if math.isnan(value):
        raise BadCell("is not a number")
    if math.isinf(value):
        raise BadCell("is not finite")
    return value


def quality(value: Any) -> float:
    """A number, true or false, yes or no, or a percentage. Raises BadCell."""
    if isinstance(value, bool | np.bool_):
        return float(value)
    if isinstance(value, str):
        written = value.strip().lower()
        if written in YES or written in NO:
            return float(written in YES)
        if percent := PERCENT.fullmatch(written):
            return number(percent.group(1)) / 100
    return number(value)


def measured(value: Any) -> float:
    """A number; NaN where it was not measured. Raises BadCell."""
    return math.nan if is_missing(value) else number(value)


def convert(
    values: Any, cell: Callable[[Any], Any], *, numbers: bool
) -> tuple[list[Any] | np.ndarray, list[tuple[int, str]]]:
    """A column's cells converted: (values, with None or NaN for bad ones; (index, why) of those).

    numbers: whether ``cell`` gives numbers; a NumPy array of finite ones is taken whole.
    """
    if numbers and isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        whole = values.astype(np.float64)
        if np.isfinite(whole).all():
            return whole, []
    found: list[Any] = []
    bad: list[tuple[int, str]] = []
    known: dict[str, Any] = {}  # short texts repeat: each is converted once
    for index, value in enumerate(values):
        try:
            if type(value) is str and len(value) < 64:
                if value not in known:
                    known[value] = cell(value)
                found.append(known[value])
            else:
                found.append(cell(value))
        except BadCell as error:
            bad.append((index, str(error)))
            found.append(math.nan if numbers else None)
    return (np.array(found, dtype=np.float64) if numbers else found), bad


def as_integers(ids: Sequence[str | None]) -> list[str | None]:
    """Ids without the ".0" that a column of whole numbers gets when it passes through floats."""
    return [
        found.partition(".")[0] if found is not None and WHOLE.fullmatch(found) else found
        for found in ids
    ]


WHOLE: Final = re.compile(r"-?\d+\.0*", re.ASCII)
