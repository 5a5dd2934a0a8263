"""The newest decisions and answers, for votes and look-ups before Postgres has them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

import orjson

from infra.text import dump_line

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 16 * 2**20
# What a row takes besides its text: its name, its place in the dictionary, the objects' headers.
ROW_BYTES: Final = 300
# Read by nobody who asks for a recent row, and two thirds of it.
LEFT_OUT: Final = frozenset({"embedding", "form"})


class Recent:
    """The newest rows by id, without their arrays; the oldest are dropped. Safe to use from several
    threads. Bounded by rows and by bytes: cachetools bounds one of them, and raises for a large row.

    Kept as JSON: ten thousand rows of nested dictionaries are what the garbage collector would walk
    through over and over.

    max_rows: how many.
    max_bytes: what they may take together.
    """

    def __init__(self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.bytes = 0
        self._rows: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, identity: str, row: dict[str, Any]) -> None:
        """Keep a row; it takes the place of the one before of that name."""
        dumped = dump_line({k: v for k, v in row.items() if k not in LEFT_OUT})
        # A copy: orjson's bytes hold the buffer they were written in, up to ten times their length.
        line = bytes(memoryview(dumped))
        with self._lock:
            old = self._rows.pop(identity, None)
            if old is not None:
                self.bytes -= len(old) + ROW_BYTES
            self._rows[identity] = line
            self.bytes += len(line) + ROW_BYTES
            while self._rows and (len(self._rows) > self.max_rows or self.bytes > self.max_bytes):
                _, dropped = self._rows.popitem(last=False)
                self.bytes -= len(dropped) + ROW_BYTES

    def get(self, identity: str) -> dict[str, Any] | None:
        with self._lock:
            line = self._rows.get(identity)
        if line is None:
            return None
        row: dict[str, Any] = orjson.loads(line)
        return row
