"""What of a chat is routed: the text that says what is asked now, and how long the prompt is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# A last message shorter than this ("and in French?") says too little by itself.
SHORT_CHARACTERS: Final = 200
CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True)
class Conversation:
    """text: what the router reads. more_tokens: about how many tokens the prompt has beyond it.
    abilities: what the answering LLM must be able to do."""

    text: str
    more_tokens: float
    abilities: tuple[str, ...]


def read_conversation(
    messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()
) -> Conversation:
    """Messages in OpenAI's form → what is routed.

    The text is the last user message; as long as it is short, the user messages before it come in
    front. Where no user wrote text, it is the last text of anybody. System prompts and answers are
    left out: they are alike from query to query, and would fill the encoder's window.
    """
    texts = [(str(message.get("role")), text_of(message.get("content"))) for message in messages]
    asked = [text for role, text in texts if role == "user" and text.strip()]
    if not asked:
        asked = [text for _, text in texts if text.strip()][-1:]
    text = asked[-1] if asked else ""
    for earlier in reversed(asked[:-1]):
        if len(text) >= SHORT_CHARACTERS:
            break
        text = f"{earlier}\n\n{text}"
    characters = sum(len(written) for _, written in texts) + len(str(tools) if tools else "")
    abilities: tuple[str, ...] = ("tools",) if tools else ()
    if any(has_image(message.get("content")) for message in messages):
        abilities += ("images",)
    return Conversation(text, max(0, characters - len(text)) / CHARACTERS_PER_TOKEN, abilities)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def has_image(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def opening(messages: Sequence[dict[str, Any]]) -> str:
    """The texts up to the first user message: alike for all requests of one conversation."""
    said = []
    for message in messages:
        said.append(text_of(message.get("content")))
        if message.get("role") == "user":
            break
    return "\n\n".join(said)
