"""Reads an answer: of a stream, chunk by chunk; of a plain one, whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from serving.gateway.completion import Body
from serving.gateway.events import BOM, DONE, EventParser, ServerEvent
from serving.gateway.failures import MAX_ERROR_BYTES, Failures
from serving.gateway.upstream_answers import (
    NOTHING,
    as_chunk,
    parse_json,
    read_chunk,
    read_completion,
    says_something,
)
from serving.gateway.upstream_errors import read_error, read_error_body

MAX_PLAIN_BYTES: Final = 16 * 2**20


class AnswerReader:
    """Tolerates what servers send instead of the specified form, and keeps what is finished.

    choices: how many were asked for.
    unfinished: the indexes of a stream's choices that have no finish reason yet.
    """

    def __init__(self, failures: Failures, choices: int = 1) -> None:
        self.unfinished: set[int] = set()
        self._failures, self._wanted = failures, choices
        self._redactor = failures.redactor
        self._finished: set[int] = set()
        self._done = False  # the end was said

    @property
    def ended(self) -> bool:
        """Whether the end was said, or every choice that began is finished."""
        return self._done or bool(self._finished and not self.unfinished)

    @property
    def complete(self) -> bool:
        """Whether nothing of the answer is missing, so that what fails now takes nothing from it."""
        return self._done or (self.ended and len(self._finished) >= self._wanted)

    async def chunks(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Body]:
        """A stream's chunks; of a server that does not stream, its answer as one.

        Raises UpstreamError where the stream holds no answer.
        """
        parser = EventParser()
        plain = bytearray()
        begun = seen = False
        head = b""
        async for piece in pieces:
            head = head or piece
            if not begun:
                piece = piece.lstrip(BOM + b" \t\r\n")
                begun = bool(piece)
                if piece[:1] in (b"{", b"[", b"<"):
                    plain += piece
                    continue
            if plain:
                plain += piece
                if len(plain) > MAX_PLAIN_BYTES:
                    raise self._failures.unreadable(f"its answer is over {MAX_PLAIN_BYTES} bytes")
                continue
            for event in parser.feed(piece):
                seen = True
                for chunk in self._read_event(event):
                    yield chunk
                if self._done:
                    return
        if plain:
            yield self._note(as_chunk(self.completion(bytes(plain))))
        for event in parser.end():
            seen = True
            for chunk in self._read_event(event):
                yield chunk
        if head and not plain and not seen:
            raise self._failures.unreadable(f"its stream has no events{self._quoted(head)}")

    def _read_event(self, event: ServerEvent) -> Iterator[Body]:
        """The chunks of one event: one, or none of a ping. Raises UpstreamError."""
        redactor = self._redactor
        data = redactor.clean_answer(event.data).strip()
        if data == DONE:
            self._done = True
            return
        parsed = parse_json(data)
        if parsed is NOTHING:
            yield from self._read_lines(event, data)
            return
        words = read_error(parsed, redactor, named=event.name == "error")
        if words is not None:
            if isinstance(parsed, dict):
                chunk = without_error(parsed)
                if says_something(chunk) or isinstance(chunk.get("usage"), dict):
                    yield self._note(chunk)
            raise self._failures.in_answer(words)
        if isinstance(parsed, dict):
            chunk = read_chunk(parsed)
            if chunk["choices"] or isinstance(chunk.get("usage"), dict):
                yield self._note(chunk)

    def _read_lines(self, event: ServerEvent, data: bytes) -> Iterator[Body]:
        """Of an event that is no JSON: events without blank lines between them, a ping in words."""
        if event.name == "error":
            raise self._failures.in_answer(read_error_body(data, self._redactor))
        if b"\n" in data:
            for line in data.split(b"\n"):
                if not self._done:
                    yield from self._read_event(ServerEvent(event.name, line))
            return
        inner = re.sub(rb"^(?:data:\s*)+", b"", data)
        if inner != data:
            yield from self._read_event(ServerEvent(event.name, inner))
        elif data[:1] in (b"{", b"["):
            raise self._failures.unreadable("an event of its stream is not JSON")

    def _note(self, chunk: Body) -> Body:
        """Keep which choices have begun, and which are finished."""
        for choice in chunk["choices"]:
            if choice.get("finish_reason"):
                self._finished.add(choice["index"])
            elif choice["index"] not in self._finished:
                self.unfinished.add(choice["index"])
        self.unfinished -= self._finished
        return chunk

    def completion(self, raw: bytes) -> Body:
        """A plain answer's JSON. Raises UpstreamError where it is none."""
        redactor = self._redactor
        parsed = parse_json(redactor.clean_answer(raw))
        if parsed is not NOTHING and (words := read_error(parsed, redactor)) is not None:
            raise self._failures.in_answer(words)
        whole = read_completion(parsed)
        if whole is not None:
            return whole
        if isinstance(parsed, dict) and "choices" in parsed:
            raise self._failures.unreadable("its answer has no choices")
        raise self._failures.unreadable(f"its answer is no chat completion{self._quoted(raw)}")

    def _quoted(self, raw: bytes) -> str:
        """The words of what is no answer."""
        words = read_error_body(raw[:MAX_ERROR_BYTES], self._redactor)
        return f": {words.message}" if words.message else ""


def without_error(parsed: Body) -> Body:
    """What an event with an error has of the answer."""
    chunk = read_chunk({key: value for key, value in parsed.items() if key != "error"})
    choices = [{k: v for k, v in c.items() if k != "error"} for c in chunk["choices"]]
    return {**chunk, "choices": [{**choice, "finish_reason": None} for choice in choices]}
