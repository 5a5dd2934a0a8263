"""Dead letters: rows that Postgres refuses, kept in a file of their journal until somebody decides."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from infra.text import dump_line
from monitoring.store.segment import sync_folder

FILE: Final = "dead-letters.json-lines"
GUARD: Final = "dead-letters.guard"
ID_LENGTH: Final = 12


@dataclass(frozen=True)
class DeadLetter:
    """A refused row.

    at: when it was refused, ISO.
    reason: Postgres's, or why it is no row.
    line: as it was in the journal.
    """

    id: str
    at: str
    reason: str
    line: str

    @classmethod
    def of(cls, line: bytes, reason: str) -> DeadLetter:
        digest = hashlib.sha256(line).hexdigest()[:ID_LENGTH]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(digest, now, reason, line.decode("utf-8", "replace"))

    @property
    def row(self) -> dict[str, Any]:
        """Raises ValueError where the line is no JSON object."""
        return parse_line(self.line.encode())


def parse_line(line: bytes) -> dict[str, Any]:
    """A journal's line as a row. Raises ValueError for what is no JSON object."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Some that is not strict JSON can be read all the same: an escaped lone surrogate, NaN.
        try:
            row = json.loads(line)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    return row


class DeadLetters:
    """The dead letters of one journal's folder. Safe to use from several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / FILE
        self._counted: tuple[tuple[int, int, int], int] | None = None

    def add(self, letters: Sequence[DeadLetter]) -> int:
        """Keep letters; one that is here already stays. On the disk when this returns.

        Returns how many are new. Raises OSError.
        """
        with self._guarded():
            known = {letter.id for letter in self.read()}
            fresh = {letter.id: letter for letter in letters if letter.id not in known}
            if fresh:
                self._write([*self.read(), *fresh.values()])
            return len(fresh)

    def read(self) -> list[DeadLetter]:
        """The oldest first. A line of the file that cannot be read is passed over."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        letters = []
        for line in lines:
            try:
                letters.append(DeadLetter(**orjson.loads(line)))
            except (ValueError, TypeError):
                continue
        return letters

    def count(self) -> int:
        """How many there are; the file is read only where it has changed."""
        try:
            state = self._path.stat()
        except OSError:
            return 0
        mark = (state.st_ino, state.st_mtime_ns, state.st_size)
        if self._counted is None or self._counted[0] != mark:
            self._counted = (mark, len(self.read()))
        return self._counted[1]

    def remove(self, ids: Iterable[str]) -> None:
        """Forget letters. Raises OSError."""
        gone = set(ids)
        with self._guarded():
            kept = [letter for letter in self.read() if letter.id not in gone]
            if kept:
                self._write(kept)
            else:
                self._path.unlink(missing_ok=True)

    def retry(
        self, letters: Sequence[DeadLetter], insert: Callable[[Sequence[dict[str, Any]]], None]
    ) -> dict[str, str]:
        """Insert letters again, one by one; those that succeed are removed.

        Returns id → why it was refused again.
        """
        refused = {}
        for letter in letters:
            try:
                insert([letter.row])
            except Exception as error:  # noqa: BLE001 - what a bad row raises depends on its content
                refused[letter.id] = reason_of(error)
            else:
                self.remove([letter.id])
        return refused

    def _write(self, letters: Sequence[DeadLetter]) -> None:
        part = self._path.with_suffix(".part")
        with part.open("wb") as handle:
            handle.writelines(dump_line(asdict(letter)) + b"\n" for letter in letters)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(self._path)
        sync_folder(self.folder)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / GUARD).open("ab") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def reason_of(error: BaseException) -> str:
    """An error in one line, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    first = str(cause).strip().partition("\n")[0]
    return f"{type(cause).__name__}: {first}"[:500]
