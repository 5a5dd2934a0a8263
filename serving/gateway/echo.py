"""What an LLM's server repeats of a prompt in its error messages, taken out before they are kept.

Keys and other secrets are the business of ``serving.gateway.redaction``: those reach nobody. A prompt's
words reach the client, who wrote them, but no log and no table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

# So many letters and digits in a row are no chance: they come from the prompt.
LEAST: Final = 12
# Shorter texts of a prompt are looked for as a whole, from this length on.
SHORTEST: Final = 3
# What a prompt may have to be looked through: the event loop waits meanwhile.
MOST_CHARACTERS: Final = 100_000
MOST_TEXTS: Final = 10_000
MASK: Final = "…"
# One character, as JSON may have written it.
CHARACTER: Final = re.compile(r"\\u(?P<code>[0-9a-fA-F]{4})|\\[nrtbf]|.", re.DOTALL)
ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\[nrtbf]")
NOT_LETTERS: Final = re.compile(r"[\W_]+")
# What a request says beside the users' words.
NOT_WORDS: Final = frozenset({"role", "type", "model", "detail", "tool_choice"})


class Echoes:
    """Takes a request's words out of the messages about it; reads them when first needed."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._read = self._huge = False
        self._grams: frozenset[str] = frozenset()
        self._short: frozenset[str] = frozenset()

    def mask(self, message: str | None) -> str | None:
        """A message without the request's words; of a huge request, its first words only."""
        if not message:
            return message
        if not self._read:
            self._learn()
        if self._huge:
            return message.partition(":")[0]
        said, places = squeeze(message)
        hidden = bytearray(len(message))
        for length in range(SHORTEST, LEAST + 1):
            known = self._grams if length == LEAST else self._short
            for start in range(len(said) - length + 1 if known else 0):
                if said[start : start + length] in known:
                    first, last = places[start], places[start + length - 1]
                    hidden[first : last + 1] = b"\1" * (last + 1 - first)
        shown = "".join("\0" if hide else c for c, hide in zip(message, hidden, strict=True))
        return re.sub("\0+", MASK, shown)

    def _learn(self) -> None:
        self._read = True
        given, size = [], 0
        for text in texts_of(self._body):
            given.append(text)
            size += len(text)
            if size > MOST_CHARACTERS or len(given) > MOST_TEXTS:
                self._huge = True
                return
        texts = [letters_of(text) for text in given]
        self._grams = frozenset(
            text[i : i + LEAST] for text in texts for i in range(len(text) - LEAST + 1)
        )
        self._short = frozenset(text for text in texts if SHORTEST <= len(text) < LEAST)


def letters_of(text: str) -> str:
    """Letters and digits in lower case, however JSON wrote them."""
    text = ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", text)
    return NOT_LETTERS.sub("", text.lower()).replace("ς", "σ")


def squeeze(text: str) -> tuple[str, Sequence[int]]:
    """The same letters and digits, and the place of each."""
    letters, places = [], []
    for match in CHARACTER.finditer(text):
        code = match["code"]
        letter = chr(int(code, 16)) if code else match[0]
        if letter.isalnum():
            letters.append(letter.lower()[:1].replace("ς", "σ"))
            places.append(match.start())
    return "".join(letters), places


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a request."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left += [inner for key, inner in value.items() if key not in NOT_WORDS]
        elif isinstance(value, list | tuple):
            left += value
