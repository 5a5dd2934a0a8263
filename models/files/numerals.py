"""Numbers as people write them in files."""

from __future__ import annotations

import re
from typing import Final

NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WITH_COMMA: Final = re.compile(r"[+-]?[\d.]*,[\d.,]*\s*%?", re.ASCII)


def read_number(written: str) -> float:
    """A decimal number. Raises ValueError saying why it is none.

    ``float`` would also take "1_000", "nan", "infinity" and digits of other scripts. "1,5" and
    "1,000" cannot be told apart, so no comma is taken.
    """
    written = written.strip()
    if NUMBER.fullmatch(written):
        return float(written)
    if WITH_COMMA.fullmatch(written):
        raise ValueError("is not a number: write a decimal point, and nothing between thousands")
    raise ValueError("is not a number")
