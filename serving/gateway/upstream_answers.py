"""What upstreams answer: tolerant of what comes, strict in what is sent on."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from serving.json_values import few_values

Body = dict[str, Any]
MAX_DEPTH: Final = 200  # orjson writes 254 levels
NOTHING: Final = object()
# Of an answer that is not strict JSON, which takes far longer to read.
MAX_ODD_VALUES: Final = 1_000_000
# The parts of a message or delta that say something to the client.
SAYS_NOTHING: Final = ("role", "index", "name")


def parse_json(raw: bytes) -> Any:
    """A JSON value that can be written again; NOTHING where the bytes are none.

    Beyond strict JSON: a byte order mark, NaN and Infinity (null), bytes that are not UTF-8, halves of
    surrogate pairs and integers of any size, as servers in Python and JavaScript send them.
    """
    try:
        parsed = orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        if not few_values(raw, MAX_ODD_VALUES):
            return NOTHING
        try:
            parsed = parse_odd(raw.decode("utf-8-sig", errors="replace"))
        except (ValueError, RecursionError, orjson.JSONEncodeError):
            return NOTHING
    return NOTHING if too_deep(raw, parsed) else parsed


def parse_odd(text: str) -> Any:
    """JSON that is not strict, as a value that can be written again. Raises ValueError, RecursionError,
    JSONEncodeError.

    No step is a walk in Python: an answer may have a million values.
    """
    parsed = json.loads(text, parse_constant=null)
    try:
        return orjson.loads(orjson.dumps(parsed))  # which makes null of what is infinite
    except orjson.JSONEncodeError:  # halves of surrogate pairs, or integers of over 64 bits
        whole = json.dumps(parsed, ensure_ascii=False)
        sound = whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        parsed = json.loads(sound, parse_constant=null, parse_int=whole_number)
        return orjson.loads(orjson.dumps(parsed))


def null(_: str) -> None:
    return None


def whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def too_deep(raw: bytes, parsed: Any) -> bool:
    """Whether orjson, which reads more levels than it writes, cannot write a value again."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    try:
        orjson.dumps(parsed)
    except orjson.JSONEncodeError:
        return True
    return False


def read_completion(parsed: Any) -> Body | None:
    """A plain answer, its choices all records with a message; None where nothing is answered."""
    if not isinstance(parsed, dict) or not isinstance(parsed.get("choices"), list):
        return None
    choices = [c for c in parsed["choices"] if isinstance(c, dict)]
    if not any(isinstance(choice.get("message"), dict) for choice in choices):
        return None
    return {**parsed, "choices": choices}


def read_chunk(parsed: Body) -> Body:
    """A chunk with a list of choices, each a record with an index and a delta."""
    choices = parsed.get("choices")
    records = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
    sound = [
        {
            **choice,
            "index": index if isinstance(index := choice.get("index"), int) else position,
            "delta": delta if isinstance(delta := choice.get("delta"), dict) else {},
        }
        for position, choice in enumerate(records)
    ]
    return {"object": "chat.completion.chunk", **parsed, "choices": sound}


def as_chunk(whole: Body) -> Body:
    """A plain answer as one chunk: what a server sends that does not stream."""
    choices = [
        {
            "index": position,
            **{k: v for k, v in choice.items() if k != "message"},
            "delta": delta_of(choice.get("message")),
            "finish_reason": choice.get("finish_reason") or "stop",
        }
        for position, choice in enumerate(whole["choices"])
    ]
    return {**whole, "object": "chat.completion.chunk", "choices": choices}


def delta_of(message: Any) -> Body:
    """A message as a delta, in which calls of tools have an index."""
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": i, **call} for i, call in enumerate(calls) if isinstance(call, dict)
        ]
    return delta


def says_something(chunk: Body) -> bool:
    """Whether a chunk has a part of the answer, and not only the role, or nothing yet."""
    for choice in chunk["choices"]:
        if choice.get("finish_reason") or choice.get("text"):
            return True
        if any(value for key, value in choice["delta"].items() if key not in SAYS_NOTHING):
            return True
    return False


def is_last(chunk: Body) -> bool:
    """Whether a chunk finishes a choice."""
    return any(isinstance(c, dict) and c.get("finish_reason") for c in chunk["choices"])


def closing(last: Body, unfinished: set[int]) -> Body:
    """The chunk that finishes choices whose upstream ended the stream without a reason."""
    head = {key: value for key, value in last.items() if key not in ("choices", "usage")}
    choices = [{"index": i, "delta": {}, "finish_reason": "stop"} for i in sorted(unfinished)]
    return {**head, "choices": choices}
