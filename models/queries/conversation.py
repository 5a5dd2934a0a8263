"""What of a chat is routed: the text that says what is asked now, and how long the prompt is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# A last message shorter than this ("and in French?") says too little by itself.
SHORT_CHARACTERS: Final = 200
# Of UTF-8: four letters of Latin text, one or two characters of Chinese.
BYTES_PER_TOKEN: Final = 4
# About what vision models take for one image, whose size the request does not say.
IMAGE_TOKENS: Final = 800
# What an LLM needs to be able to do, by the types of the content parts that ask for it.
ABILITY_OF_PART: Final = {
    "image_url": "images", "input_image": "images", "image": "images",
    "input_audio": "audio", "audio_url": "audio", "audio": "audio",
    "file": "files", "input_file": "files", "document": "files", "file_url": "files",
    "video_url": "video", "input_video": "video", "video": "video",
}  # fmt: skip
# The least that tokenizers of today make of ordinary text: what a prompt may have at most follows.
LEAST_BYTES_PER_TOKEN: Final = 3
# Likewise the most for a part of a message that is not text.
MOST_PART_TOKENS: Final = 1500
# Fields of a request that its LLM reads beside the messages.
READ: Final = ("tools", "functions", "response_format", "prediction")
UNWRITTEN: Final = frozenset({"id", "type", "index", "role"})


@dataclass(frozen=True)
class Conversation:
    """What of a request decides who may answer it.

    text: what the router reads.
    more_tokens: about how many tokens the prompt has beyond it.
    abilities: what the answering LLM must be able to do.
    """

    text: str
    more_tokens: float
    abilities: tuple[str, ...]


def read_conversation(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Any] | None = (),
    request: Mapping[str, Any] | None = None,
) -> Conversation:
    """Messages in OpenAI's form → what is routed. request: the body's other fields.

    The text is the last user message; as long as it is short, the user messages before it come in
    front. Where no user wrote text, it is the last text of anybody. System prompts and answers are
    left out: they are alike from query to query, and would fill the encoder's window.
    """
    texts = [(str(message.get("role")), text_of(message.get("content"))) for message in messages]
    asked = [text for role, text in texts if role == "user" and text.strip()]
    if not asked:
        asked = [text for _, text in texts if text.strip()][-1:]
    kept = asked[-1:]
    size = len(kept[0]) if kept else 0
    for earlier in reversed(asked[:-1]):
        if size >= SHORT_CHARACTERS:
            break
        kept.append(earlier)
        size += len(earlier) + 2
    text = "\n\n".join(reversed(kept))
    written = sum(length_of(text) for _, text in texts) + length_of(tools)
    written += sum(length_of(message.get("tool_calls")) for message in messages)
    needed = dict.fromkeys([*_asked_abilities(tools, request or {}), *_part_abilities(messages)])
    images = sum(ABILITY_OF_PART.get(kind) == "images" for kind in _part_types(messages))
    more = max(0, written - length_of(text)) / BYTES_PER_TOKEN + IMAGE_TOKENS * images
    return Conversation(text, more, tuple(needed))


def most_tokens(request: Mapping[str, Any]) -> float:
    """Tokens of all that a request's LLM reads, rather too many than too few."""
    size = sum(_size(str(request[name])) for name in READ if request.get(name))
    parts = 0
    for message in request.get("messages") or ():
        content = message.get("content")
        size += _size(text_of(content))
        others = {k: v for k, v in message.items() if k not in ("role", "content") and v}
        size += _size(str(others)) if others else 0
        if isinstance(content, list):
            parts += sum(isinstance(p, dict) and p.get("type") != "text" for p in content)
    return size / LEAST_BYTES_PER_TOKEN + MOST_PART_TOKENS * parts


def _size(text: str) -> int:
    """Bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _asked_abilities(tools: Sequence[Any] | None, request: Mapping[str, Any]) -> Iterator[str]:
    """What the request's own fields need."""
    if tools or request.get("functions"):
        yield "tools"
    modalities = request.get("modalities")
    if request.get("audio") or (isinstance(modalities, list) and "audio" in modalities):
        yield "audio"
    form = request.get("response_format")
    if isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"):
        yield "json"


def _part_abilities(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    for kind in _part_types(messages):
        if kind in ABILITY_OF_PART:
            yield ABILITY_OF_PART[kind]


def _part_types(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The types of all content parts."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and isinstance(part.get("type"), str):
                yield part["type"]


def length_of(written: Any) -> int:
    """Bytes of UTF-8 of the text in a message's field, however nested, ids and types left out."""
    total, left = 0, [written]
    while left:
        value = left.pop()
        if isinstance(value, str):
            total += _size(value)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if name not in UNWRITTEN:
                    left.append(inner)
                    total += len(name) if isinstance(name, str) else 0
        elif isinstance(value, list | tuple):
            left.extend(value)
    return total


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def opening(messages: Sequence[dict[str, Any]]) -> str:
    """The texts up to the first user message: alike for all requests of one conversation."""
    said = []
    for message in messages:
        said.append(text_of(message.get("content")))
        if message.get("role") == "user":
            break
    return "\n\n".join(said)
