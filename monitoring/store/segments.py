"""The segments of a folder: which there are, how old, and what is in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from monitoring.store.dead_letters import DeadLetter, parse_line

log = logging.getLogger("mixllm.journal")

SUFFIX: Final = ".jsonl"
# What is read and inserted at once, so that memory does not grow with what waits.
BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 * 2**20


@dataclass(frozen=True)
class Batch:
    """Lines of a segment.

    start, end: bytes.
    bad: lines that are no rows, and why.
    """

    start: int
    end: int
    lines: list[bytes]
    rows: list[dict[str, Any]]
    bad: list[DeadLetter]


def owner_of(path: Path) -> str:
    return path.stem.rpartition("-")[0]


def age(path: Path) -> tuple[int, str, str]:
    """What sorts segments as they were written: by their process's start, then by number."""
    owner, _, number = path.stem.rpartition("-")
    parts = owner.split("-")
    started = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
    return started, owner, number


def segments_of(folder: Path) -> list[Path]:
    """Every process's segments, the oldest first."""
    return sorted((p for p in folder.glob(f"*{SUFFIX}") if p.is_file()), key=age)


def count_lines(path: Path) -> int:
    """Lines of a file, one that was cut short left out."""
    with path.open("rb") as handle:
        return sum(block.count(b"\n") for block in iter(lambda: handle.read(2**20), b""))


def rows_waiting(folder: Path) -> int:
    """Rows in the segments of a folder."""
    total = 0
    for path in segments_of(folder):
        try:
            total += count_lines(path)
        except OSError:  # inserted meanwhile
            continue
    return total


def read_batches(
    path: Path, holding: bytes = b"", start: int = 0, upto: int | None = None
) -> Iterator[Batch]:
    """A segment's lines, a batch at a time; those that hold some bytes.

    A last line without its end was cut short by a crash: it was never accepted, and is left out.
    """
    try:
        handle = path.open("rb")
    except FileNotFoundError:  # another process has inserted it
        return
    with handle:
        handle.seek(start)
        lines: list[bytes] = []
        rows: list[dict[str, Any]] = []
        bad: list[DeadLetter] = []
        begun = place = start
        for raw in handle:
            if not raw.endswith(b"\n"):
                log.warning("journal: a line cut short in %s", path.name)
                break
            if upto is not None and place + len(raw) > upto:
                break
            place += len(raw)
            line = raw.strip()
            if line and holding in line:
                try:
                    rows.append(parse_line(line))
                    lines.append(line)
                except ValueError as error:
                    bad.append(DeadLetter.of(line, f"not a row: {error}"))
            if len(rows) + len(bad) >= BATCH_ROWS or place - begun >= BATCH_BYTES:
                yield Batch(begun, place, lines, rows, bad)
                lines, rows, bad, begun = [], [], [], place
        if lines or bad or place > begun:
            yield Batch(begun, place, lines, rows, bad)


def read_segment(path: Path) -> list[dict[str, Any]]:
    """A segment's rows."""
    return [row for batch in read_batches(path) for row in batch.rows]
