"""Server-sent events (WHATWG HTML, 9.2) from bytes in any pieces, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_EVENT_BYTES: Final = 16 * 2**20  # a delta may hold an image
MAX_EVENT_LINES: Final = 10_000
BOM: Final = b"\xef\xbb\xbf"
DONE: Final = b"[DONE]"


class EventTooLong(ValueError):
    """An event passed the bound on its bytes or lines."""


@dataclass(frozen=True)
class ServerEvent:
    """One event. name: of its ``event`` field, empty without one; data: its data lines, joined."""

    name: str
    data: bytes


class EventParser:
    """Takes a stream's bytes as they come and gives its events.

    Lines end in LF, CR or CRLF. Comments, ``id``, ``retry`` and unknown fields are dropped. Time is
    linear in the bytes, whatever the pieces. max_bytes, max_lines: of one event, with what comes
    before it.
    """

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES, max_lines: int = MAX_EVENT_LINES) -> None:
        self.max_bytes, self.max_lines = max_bytes, max_lines
        self._line = bytearray()  # of a line that has not ended
        self._data = bytearray()
        self._has_data = False
        self._lines = 0  # since the last event
        self._name = ""
        self._after_cr = False
        self._at_start = True

    def feed(self, part: bytes) -> Iterator[ServerEvent]:
        """The events that end in this part. Raises EventTooLong."""
        if self._after_cr and part:
            part = part.removeprefix(b"\n")
        if part:
            self._after_cr = part.endswith(b"\r")
        for line in part.splitlines(keepends=True):
            content = line.rstrip(b"\r\n")
            if len(self._line) + len(content) > self.max_bytes:
                raise EventTooLong(f"a line of its stream is over {self.max_bytes} bytes")
            if len(content) == len(line):  # it goes on in the next part
                self._line += content
                continue
            if self._line:
                content = bytes(self._line + content)
                self._line.clear()
            yield from self._take(content)

    def end(self) -> Iterator[ServerEvent]:
        """The event that the stream's end cut off before its blank line: servers leave that out."""
        if self._line:
            content = bytes(self._line)
            self._line.clear()
            yield from self._take(content)
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[ServerEvent]:
        """One line without its end."""
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BOM)
        self._lines += 1
        if self._lines > self.max_lines:
            raise EventTooLong(f"an event of its stream is over {self.max_lines} lines")
        if not line:
            if self._has_data:
                yield ServerEvent(self._name, bytes(self._data))
                self._lines = 0
            self._data.clear()
            self._name, self._has_data = "", False
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value[:100].decode(errors="replace")
        elif field == b"data":
            if self._has_data:
                self._data += b"\n"
            self._data += value
            self._has_data = True
            if len(self._data) > self.max_bytes:
                raise EventTooLong(f"an event of its stream is over {self.max_bytes} bytes")
