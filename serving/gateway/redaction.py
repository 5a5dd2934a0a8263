"""Takes an upstream's secrets out of its words, wherever it echoes them.

An upstream may repeat the key it was sent: whole, in part ("sk-...abcd"), encoded, or in a header that
an exception quotes. Every word of an upstream passes here before anything else reads it.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

REDACTED: Final = "[redacted]"
# So many characters of a secret in a row are taken for an echo of it.
GRAM: Final = 8
# In an answer, only longer secrets are looked for: a placeholder such as "ollama" is also a word.
MIN_IN_ANSWER: Final = 12
MAX_CHARACTERS: Final = 8192
# What servers write in place of a key's middle.
MASKED: Final = re.compile(
    r"([^\s\"'`<>(){}\[\],;:=…•*#]{0,80}?)(?:[*.•#]{2,}|[…•]|[xX]{4,})+([^\s\"'`<>(){}\[\],;…•*#]{0,80})"
)
# Keys of anybody: an upstream may itself be a gateway that echoes its own.
KEY_LIKE: Final = re.compile(
    r"(?:\b(?:sk|pk|rk|gsk|xai|hf|r8|ghp|pplx|nvapi|fw|csk|tgp)[-_][A-Za-z0-9_-]{12,}"
    r"|\bAIza[A-Za-z0-9_-]{20,}|\bAKIA[A-Z0-9]{12,}|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)"
)
CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]+")


class Redactor:
    """Knows the secrets of one upstream."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = tuple(sorted({s for s in secrets if s}, key=len, reverse=True))
        forms = {form.lower() for secret in self.secrets for form in forms_of(secret)}
        self._grams = {
            form[i : i + GRAM] for form in forms for i in range(max(0, len(form) - GRAM + 1))
        }
        short = [s for s in self.secrets if 4 <= len(s) < GRAM]
        short += [s[-n:] for s in self.secrets if len(s) >= 2 * GRAM for n in range(4, GRAM)]
        words = "|".join(re.escape(word) for word in sorted(short, key=len, reverse=True))
        self._words = re.compile(rf"(?<![A-Za-z0-9])(?:{words})(?![A-Za-z0-9])") if words else None
        long = [s.encode() for s in self.secrets if len(s) >= MIN_IN_ANSWER]
        escaped = {json_escaped(s, slash=slash) for s in long for slash in (False, True)}
        self._long = sorted({*long, *escaped}, key=len, reverse=True)

    def clean(self, text: str, limit: int = 300) -> str:
        """Words for people, one line, up to limit characters, that any store takes."""
        text = CONTROL.sub(" ", text[:MAX_CHARACTERS])
        text = self._without_echoes(text)
        text = MASKED.sub(self._unless_masked, text)
        if self._words is not None:
            text = self._words.sub(REDACTED, text)
        text = " ".join(KEY_LIKE.sub(REDACTED, text).split())
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def clean_answer(self, raw: bytes) -> bytes:
        """An answer's bytes without the secrets; the same object where it has none."""
        for secret in self._long:
            if secret in raw:
                raw = raw.replace(secret, REDACTED.encode())
        return raw

    def _without_echoes(self, text: str) -> str:
        raw = text.encode()
        folded = raw.lower()  # ASCII only, so that positions stay
        spans: list[tuple[int, int]] = []
        for i in range(len(folded) - GRAM + 1):
            if folded[i : i + GRAM] in self._grams:
                if spans and i <= spans[-1][1]:
                    spans[-1] = (spans[-1][0], i + GRAM)
                else:
                    spans.append((i, i + GRAM))
        for start, end in reversed(spans):
            raw = raw[:start] + REDACTED.encode() + raw[end:]
        return raw.decode(errors="replace")

    def _unless_masked(self, match: re.Match[str]) -> str:
        head, tail = match[1], match[2].rstrip(".!?")
        for secret in self.secrets:
            starts = len(head) >= 2 and secret.startswith(head)
            ends = len(tail) >= 3 and secret.endswith(tail)
            if starts or ends:
                return REDACTED
        return match[0]


def forms_of(secret: str) -> Iterator[bytes]:
    """A secret as servers may write it."""
    raw = secret.encode()
    yield raw
    yield quote(secret, safe="").encode()
    yield html.escape(secret).encode()
    yield json_escaped(raw, slash=False)
    yield json_escaped(raw)
    yield raw.hex().encode()
    for offset in range(3):  # wherever it begins within a longer base64 text
        encoded = base64.b64encode(b"\0" * offset + raw).rstrip(b"=")
        yield encoded[-(-offset * 4 // 3) : -1]
        yield encoded[-(-offset * 4 // 3) : -1].translate(bytes.maketrans(b"+/", b"-_"))


def json_escaped(raw: bytes, *, slash: bool = True) -> bytes:
    """slash: whether it is escaped too, as some servers do."""
    raw = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return raw.replace(b"/", b"\\/") if slash else raw
