"""The rows that wait for Postgres in files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitoring.store.segments import count_lines, read_batches, segments_of


class WaitingRows:
    """Those of every process of this machine, dead or alive.

    folder: of the segments.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counted: dict[tuple[str, int], int] = {}

    def count(self) -> int:
        """How many there are."""
        total, counted = 0, {}
        for path in segments_of(self.folder):
            try:
                mark = (path.name, path.stat().st_size)
                counted[mark] = self._counted.get(mark) or count_lines(path)
            except OSError:  # inserted meanwhile
                continue
            total += counted[mark]
        self._counted = counted
        return total

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The oldest first."""
        for path in segments_of(self.folder):
            for batch in read_batches(path):
                yield from batch.rows

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest ``count`` rows, the oldest first; without reading the others."""
        parts: deque[list[dict[str, Any]]] = deque()
        missing = count
        for path in reversed(segments_of(self.folder)):
            if missing <= 0:
                break
            tail: deque[dict[str, Any]] = deque(maxlen=missing)
            for batch in read_batches(path):
                tail.extend(batch.rows)
            parts.appendleft(list(tail))
            missing -= len(tail)
        return [row for part in parts for row in part]

    def find(self, column: str, value: str) -> dict[str, Any] | None:
        """A row, by a value of one of its columns."""
        for path in segments_of(self.folder):
            for batch in read_batches(path, value.encode()):
                for row in batch.rows:
                    if row.get(column) == value:
                        return row
        return None
