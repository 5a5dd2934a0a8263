"""What the encoder reads of a query: one function, shared by training and serving.

A long prompt hides its question behind examples or after a pasted document, so the head alone says
little: the window keeps the head and, with the larger share, the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MAX_TOKENS: Final = 256
HEAD_SHARE: Final = 0.25
# A token is rarely longer than this many characters; text beyond it can never enter the window.
CHARACTERS_PER_TOKEN: Final = 24


def clip_characters(query: str, max_tokens: int = MAX_TOKENS) -> str:
    """The part of a query that can reach the window, so that tokenising a huge one stays cheap."""
    keep = max_tokens * CHARACTERS_PER_TOKEN
    if len(query) <= 2 * keep:
        return query
    return query[:keep] + "\n" + query[-keep:]


def window(token_ids: Sequence[int], max_tokens: int = MAX_TOKENS) -> list[int]:
    """Head and tail of a token sequence.

    token_ids: without special tokens. Returns at most ``max_tokens - 2`` ids (two are for the
    encoder's own start and end tokens).
    """
    room = max_tokens - 2
    if len(token_ids) <= room:
        return list(token_ids)
    head = int(room * HEAD_SHARE)
    return [*token_ids[:head], *token_ids[len(token_ids) - (room - head) :]]
