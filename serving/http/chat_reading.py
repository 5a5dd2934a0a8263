"""A chat completion as it came: its body, its prompt, its routing options."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from fastapi import HTTPException, Request
from pydantic import ValidationError

from models.digest import digest_text
from models.queries.conversation import Conversation, most_tokens, opening, read_conversation
from serving.http.bodies import apart
from serving.http.chat_schemas import ChatOptions, ChatRequest

# The model's name that asks for routing; any other asks that LLM alone.
ROUTED: Final = "mixllm"
HEADER: Final = "x-mixllm-"
HEADER_OPTIONS: Final = ("session", "candidates", "abilities", "fallback")
NUMBERS: Final = (
    "willingness-to-pay", "min-quality", "max-cost", "beta", "time-limit", "switching-cost",
)  # fmt: skip


@dataclass(frozen=True)
class IncomingChat:
    """A chat completion that was read.

    request: its checked fields.
    body: as it was sent, to be sent on.
    options: how it is to be routed.
    conversation: what its messages and tools say.
    most_tokens: of the prompt, rather too many than too few.
    session: the conversation's id.
    key_id: who asks.
    started: monotonic seconds.
    """

    request: ChatRequest
    body: dict[str, Any]
    options: ChatOptions
    conversation: Conversation
    most_tokens: float
    session: str | None
    key_id: str | None
    started: float

    @property
    def pinned(self) -> bool:
        """The client named the LLM itself."""
        return self.request.model != ROUTED

    @property
    def max_response_tokens(self) -> float | None:
        """The longest answer that the request allows, in tokens."""
        for name in ("max_completion_tokens", "max_tokens"):
            value = self.body.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return float(value)
        return None


async def read_body(request: Request) -> dict[str, Any]:
    """The body as it was sent, to be sent on. Raises HTTPException for what cannot be written again."""
    body: dict[str, Any] = await request.json()
    await apart(request, check_writable, body)
    return body


def check_writable(body: Any) -> None:
    """Raises HTTPException."""
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        deep = "recursion" in str(error).lower()
        why = "is nested too deeply" if deep else f"cannot be sent on: {error}"
        raise HTTPException(422, f"the body {why}") from error


def read_options(chat: ChatRequest, headers: Mapping[str, str]) -> ChatOptions:
    """The routing options: the field ``mixllm``, over what headers say. Raises HTTPException."""
    fields: dict[str, Any] = {}
    for name in (*HEADER_OPTIONS, *NUMBERS):
        value = headers.get(HEADER + name)
        if value is None:
            continue
        if name in ("candidates", "abilities"):
            fields[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        elif name == "fallback":
            fields[name] = value.strip().lower() not in ("false", "0", "no")
        elif name == "session":
            fields[name] = value
        else:
            try:
                fields[name.replace("-", "_")] = float(value)
            except ValueError as error:
                message = f"header {HEADER}{name}: not a number: {value[:40]!r}"
                raise HTTPException(422, message) from error
    if chat.mixllm is not None:
        fields |= chat.mixllm.model_dump(exclude_unset=True)
    try:
        return ChatOptions.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("mixllm", *first["loc"]))
        raise HTTPException(422, f"{place}: {first['msg']}") from error


async def read_chat(
    chat: ChatRequest, request: Request, key_id: str | None, switching_cost: float
) -> IncomingChat:
    """Read a chat completion. Raises HTTPException.

    switching_cost: the service's own, USD.
    """
    started = time.monotonic()
    body = await read_body(request)
    options = read_options(chat, request.headers)

    def read() -> IncomingChat:  # takes time for each of the body's values
        return IncomingChat(
            request=chat,
            body=body,
            options=options,
            conversation=read_conversation(body["messages"], body.get("tools"), body),
            most_tokens=most_tokens(body),
            session=session_of(body, options, switching_cost),
            key_id=key_id,
            started=started,
        )

    return await apart(request, read)


def session_of(body: dict[str, Any], options: ChatOptions, switching_cost: float) -> str | None:
    """The conversation's id: as given, or where changing the LLM costs something, its opening."""
    if options.session is None and (options.switching_cost or switching_cost):
        return digest_text(opening(body["messages"]))
    return options.session
