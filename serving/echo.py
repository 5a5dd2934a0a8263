"""What an LLM's server repeats of a prompt in its error messages, taken out before they are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

# So many letters and digits in a row are no chance: they come from the prompt.
LEAST: Final = 12
MOST_CHARACTERS: Final = 200_000
MASK: Final = "…"
# One character, as JSON may have written it.
CHARACTER: Final = re.compile(r"\\u(?P<code>[0-9a-fA-F]{4})|\\[nrtbf]|.", re.DOTALL)
# What a request says beside the users' words.
NOT_WORDS: Final = frozenset({"role", "type", "model", "detail", "tool_choice"})


def without_echo(message: str | None, body: Mapping[str, Any]) -> str | None:
    """An error message without what it repeats of the request's words."""
    if not message:
        return message
    given = list(words(body))
    if sum(map(len, given)) > MOST_CHARACTERS:  # to look all through would hold others up
        return message.partition(":")[0]
    texts = [squeezed for text in given if (squeezed := squeeze(text)[0])]
    said, places = squeeze(message)
    hidden = bytearray(len(message))
    whole = "\n".join(texts)
    for start in range(len(said) - LEAST + 1):
        if said[start : start + LEAST] in whole:
            cover(hidden, places[start], places[start + LEAST - 1])
    for text in texts:  # short ones, where they stand as a whole
        if 3 <= len(text) < LEAST:
            start = said.find(text)
            while start >= 0:
                cover(hidden, places[start], places[start + len(text) - 1])
                start = said.find(text, start + 1)
    shown = "".join("\0" if hide else c for c, hide in zip(message, hidden, strict=True))
    return re.sub("\0+", MASK, shown)


def cover(hidden: bytearray, first: int, last: int) -> None:
    hidden[first : last + 1] = b"\1" * (last + 1 - first)


def squeeze(text: str) -> tuple[str, Sequence[int]]:
    """(letters and digits in lower case, the place of each): however it was quoted or folded."""
    letters, places = [], []
    for match in CHARACTER.finditer(text):
        code = match["code"]
        letter = chr(int(code, 16)) if code else match[0]
        if letter.isalnum():
            letters.append(letter.lower()[:1])
            places.append(match.start())
    return "".join(letters), places


def words(value: Any) -> Iterator[str]:
    """Every text in a request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in NOT_WORDS:
                yield from words(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from words(inner)
