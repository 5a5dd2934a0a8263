"""Sessions: a conversation stays with its LLM."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

SESSIONS: Final = 20_000


class Sessions:
    """Who answered last in each conversation; the longest unused are forgotten."""

    def __init__(self) -> None:
        self._llms: OrderedDict[tuple[str | None, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def last(self, key_id: str | None, session: str | None) -> str | None:
        with self._lock:
            return None if session is None else self._llms.get((key_id, session))

    def note(self, key_id: str | None, session: str | None, llm: str) -> None:
        if session is None:
            return
        with self._lock:
            self._llms[key_id, session] = llm
            self._llms.move_to_end((key_id, session))
            if len(self._llms) > SESSIONS:
                self._llms.popitem(last=False)
