"""The words of an upstream's error, whatever its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final

import orjson

from serving.gateway.redaction import Redactor
from serving.gateway.upstream_answers import parse_json

MAX_MESSAGE: Final = 2000
MAX_DEPTH: Final = 6
MESSAGE_KEYS: Final = (
    "message", "Message", "msg", "error_message", "errorMessage", "error_description", "detail",
    "details", "description", "reason", "title", "faultstring", "exception", "text", "raw",
)  # fmt: skip
NESTED_KEYS: Final = ("error", "errors", "fault", "detail", "Error", "body")


@dataclass(frozen=True)
class ErrorWords:
    """What an upstream says of its error, cleaned of secrets.

    message: None where it says nothing. status: an HTTP status that the body names.
    reasons: every code, type and status in it, for telling whose fault it is.
    """

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None
    status: int | None = None
    reasons: tuple[str, ...] = ()


def read_error(parsed: Any, redactor: Redactor, *, named: bool = False) -> ErrorWords | None:
    """The error in parsed JSON that should be an answer; None where there is none.

    named: something else says already that it is one, an event's name or a status.
    """
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict):
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return words_of(parsed, redactor) if named and parsed else None
    if says_something(parsed.get("error")) or says_something(parsed.get("errors")):
        return words_of(parsed, redactor)
    if isinstance(parsed.get("choices"), list) and parsed["choices"] and not named:
        for choice in parsed["choices"]:
            if isinstance(choice, dict) and (
                choice.get("finish_reason") == "error" or says_something(choice.get("error"))
            ):
                return words_of(choice.get("error") or {}, redactor)
        return None
    kind = str(parsed.get("object") or parsed.get("type") or parsed.get("status") or "").lower()
    coded = any(says_something(parsed.get(key)) for key in ("code", "status", "__type"))
    if named or "error" in kind or "exception" in kind or "detail" in parsed or "fault" in parsed:
        return words_of(parsed, redactor)
    if coded and any(isinstance(parsed.get(key), str) for key in ("message", "Message", "msg")):
        return words_of(parsed, redactor)
    return None


def says_something(value: Any) -> bool:
    """Whether a field holds an error: ``null``, ``""``, ``{}`` and a record of such do not."""
    if isinstance(value, dict):
        return any(bool(part) for part in value.values())
    return bool(value)


def read_error_body(raw: bytes, redactor: Redactor) -> ErrorWords:
    """The words of a response that is no answer: JSON of any shape, HTML or plain text."""
    parsed = parse_json(raw)
    if isinstance(parsed, dict | list | str):
        return words_of(parsed, redactor)
    text = raw.decode(errors="replace").strip()
    events = re.findall(r"^data:(.*)$", text, re.MULTILINE)
    if events and isinstance(parsed := parse_json(events[0].encode()), dict):
        return words_of(parsed, redactor)
    if "<" in text and re.search(
        r"<\s*(?:!doctype|html|head|body|h\d|p|title|\?xml|error)", text, re.I
    ):
        text = text_of_html(text)
    return ErrorWords(redactor.clean(text, MAX_MESSAGE) or None)


def words_of(parsed: Any, redactor: Redactor) -> ErrorWords:
    """The words of parsed JSON that is known to be an error."""
    records = list(records_of(parsed))
    message = next((text for record in records if (text := message_of(record))), None)
    # A gateway in front of a provider keeps the provider's own words here.
    asides = [r["metadata"] for r in records if isinstance(r.get("metadata"), dict)]
    raw = next((str(aside["raw"]) for aside in asides if aside.get("raw")), None)
    if raw:
        message = f"{message}: {raw}" if message else raw
    if message is None and isinstance(parsed, str):
        message = parsed
    if message is None and parsed:
        message = orjson.dumps(parsed, default=str).decode(errors="replace")[:MAX_MESSAGE]
    codes = [
        str(record.get(key))
        for record in records
        for key in ("code", "status", "status_code", "statusCode", "http_code")
    ]
    numbers = [int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)]

    def first(*keys: str) -> str | None:
        values = [record.get(key) for record in records for key in keys]
        known = [
            v for v in values if isinstance(v, str | int) and not isinstance(v, bool) and v != ""
        ]
        # A name says more than a number.
        known.sort(key=lambda value: isinstance(value, int))
        return redactor.clean(str(known[0]), 200) if known else None

    reasons = [
        redactor.clean(str(record[key]), 200)
        for record in records
        for key in ("code", "type", "status", "reason", "__type")
        if isinstance(record.get(key), str)
    ]
    kinds = [r for r in records if r.get("type") not in ("error", None)] or [{}]
    kind = kinds[0].get("type")
    return ErrorWords(
        message=redactor.clean(message, MAX_MESSAGE) or None if message else None,
        type=redactor.clean(kind, 200) if isinstance(kind, str) else None,
        code=first("code", "status", "__type"),
        param=first("param"),
        status=numbers[0] if numbers else None,
        reasons=tuple(reasons),
    )


def records_of(parsed: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The records of an error, the inner ones first: they say more."""
    if depth > MAX_DEPTH:
        return
    if isinstance(parsed, list):
        for part in parsed[:10]:
            yield from records_of(part, depth + 1)
    if not isinstance(parsed, dict):
        return
    for key in (*NESTED_KEYS, "message"):
        if isinstance(parsed.get(key), dict | list):
            yield from records_of(parsed[key], depth + 1)
    yield parsed
    if isinstance(parsed.get("details"), dict | list):
        yield from records_of(parsed["details"], depth + 1)


def message_of(record: Mapping[str, Any]) -> str | None:
    """The words of one record."""
    problems = record.get("detail")
    if isinstance(problems, list):  # FastAPI's list of what is wrong where
        told = [place_and_message(part) for part in problems[:5] if isinstance(part, dict)]
        if told := [text for text in told if text]:
            return "; ".join(told)
    if isinstance(record.get("loc"), list):
        return place_and_message(record)
    for key in MESSAGE_KEYS:
        if isinstance(value := record.get(key), str) and value.strip():
            code = record.get("error")
            return f"{code}: {value}" if isinstance(code, str) and code.strip() else value
    for key in NESTED_KEYS:
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and (texts := [v for v in value if isinstance(v, str)]):
            return "; ".join(texts[:5])
    return None


def place_and_message(part: Mapping[str, Any]) -> str | None:
    """One entry of FastAPI's list: ``{"loc": ["body", "x"], "msg": …}``."""
    text = part.get("msg") or part.get("message")
    if not isinstance(text, str):
        return None
    place = part.get("loc")
    where = ".".join(str(step) for step in place) if isinstance(place, list) else ""
    return f"{where}: {text}" if where else text


class _Text(HTMLParser):
    """Collects what a page shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.parts.append(data.strip())


def text_of_html(page: str) -> str:
    """What a page shows, each text once."""
    reader = _Text()
    reader.feed(page[:20_000])
    return " ".join(dict.fromkeys(reader.parts))
