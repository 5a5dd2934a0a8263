"""The fleet's answers as OpenAI's protocol has them."""

from __future__ import annotations

import uuid
from typing import Any, Final

import orjson
from aiohttp import web

from infra.fleet.answers import Answer

# Tokens that come within so long travel in one event.
TICK_SECONDS: Final = 0.02


def message_of(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """The assistant's message: a call of the tool it must call, else the text."""
    tools = body.get("tools") or []
    if tools and body.get("tool_choice") in ("required", "auto", None):
        name = tools[0]["function"]["name"]
        arguments = {"name": name, "arguments": "{}"}
        call = {"id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": arguments}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": answer.text}


def parts_of(
    said: dict[str, Any], tokens: int, per_token: float
) -> list[tuple[dict[str, Any], int]]:
    """A message's deltas, each with its tokens: as many in one as come within a tick."""
    if said["content"] is None:
        calls = [{"index": i, **call} for i, call in enumerate(said["tool_calls"])]
        return [({"role": "assistant", "tool_calls": calls}, tokens)]
    text, count = said["content"], max(1, tokens)
    step = count if per_token == 0 else max(1, round(TICK_SECONDS / per_token))
    ends = [*range(step, count, step), count]
    starts = [0, *ends[:-1]]
    deltas = [
        ({"content": text[len(text) * a // count : len(text) * b // count]}, b - a)
        for a, b in zip(starts, ends, strict=True)
    ]
    deltas[0] = ({"role": "assistant", **deltas[0][0]}, deltas[0][1])
    return deltas


def event(parsed: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(parsed) + b"\n\n"


def json_response(body: Any, status: int = 200, headers: Any = None) -> web.Response:
    raw = orjson.dumps(body)
    return web.Response(body=raw, status=status, headers=headers, content_type="application/json")


def refusal(status: int, message: str, headers: Any = None) -> web.Response:
    told = {"message": message, "type": "fleet", "param": None, "code": None}
    return json_response({"error": told}, status, headers)
