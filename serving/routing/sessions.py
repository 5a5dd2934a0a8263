"""Sessions: a conversation stays with its LLM."""

from __future__ import annotations

import threading
from typing import Final

from cachetools import LRUCache

SESSIONS: Final = 20_000


class Sessions:
    """Which LLM answered last in each conversation; the longest unused are forgotten.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._llms: LRUCache[tuple[str | None, str], str] = LRUCache(SESSIONS)
        self._lock = threading.Lock()

    def last(self, key_id: str | None, session: str | None) -> str | None:
        with self._lock:
            return None if session is None else self._llms.get((key_id, session))

    def note(self, key_id: str | None, session: str | None, llm: str) -> None:
        if session is None:
            return
        with self._lock:
            self._llms[key_id, session] = llm
