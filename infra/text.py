"""Text and JSON as Postgres can store them: no NUL, no lone surrogate, no number beyond 64 bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

REPLACEMENT: Final = "\ufffd"
# What a NUL looks like in a line of JSON.
ESCAPED_NUL: Final = b"\\u0000"
MOST_INTEGER: Final = 2**63


def storable(value: Any) -> Any:
    """The same value, every text in it as Postgres can store it; nested lists and objects included.

    Numbers that JSON or a column cannot hold become what is nearest: a float for an integer beyond
    64 bits, null for what is not finite.
    """
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, Mapping):
        return {storable_text(str(name)): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [storable(item) for item in value]
    if isinstance(value, int) and not -MOST_INTEGER <= value < MOST_INTEGER:
        return storable(float(value)) if abs(value) < 10**308 else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def storable_text(text: str) -> str:
    """Text in which Postgres finds nothing to refuse."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", REPLACEMENT).encode("utf-8", "replace").decode("utf-8")


def dump_line(row: Mapping[str, Any]) -> bytes:
    """A row as one line of JSON that can be stored, without its line break."""
    try:
        line = orjson.dumps(row)
        if ESCAPED_NUL not in line:
            return line
    except TypeError:  # a lone surrogate, an integer beyond 64 bits
        pass
    return orjson.dumps(storable(row), default=str)


def dump_json(value: Any) -> str:
    """JSON for a column."""
    return json.dumps(storable(value))
