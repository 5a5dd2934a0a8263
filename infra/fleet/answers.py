"""What each simulated LLM answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from models.data.evaluation_set import EvaluationSet

WORD: Final = " lorem"
UNKNOWN_TOKENS: Final = 100


@dataclass(frozen=True)
class Answer:
    """What an LLM says to a query. quality: in [0, 1], None where nobody knows."""

    text: str
    prompt_tokens: int
    response_tokens: int
    quality: float | None


class Answers(Protocol):
    """Who knows what each LLM answers."""

    def find(self, llm: str, query: str) -> Answer: ...


class RecordedAnswers:
    """Answers of an evaluation set's length and quality. texts: query → its right answer, where
    known; the words of the others mean nothing."""

    def __init__(self, data: EvaluationSet, texts: Mapping[str, str] | None = None) -> None:
        queries = dict(zip(data.queries["query_id"], data.queries["query"], strict=True))
        outcomes = data.outcomes
        columns = ("query_id", "llm", "quality", "prompt_tokens", "response_tokens")
        self._texts = texts or {}
        self._known = {
            (llm, queries[identity].strip()): (float(quality), int(prompt), int(response))
            for identity, llm, quality, prompt, response in zip(
                *(outcomes[column] for column in columns), strict=True
            )
        }

    def find(self, llm: str, query: str) -> Answer:
        quality, prompt, response = self._known.get(
            (llm, query.strip()), (None, -(-len(query) // 4), UNKNOWN_TOKENS)
        )
        said = self._texts.get(query.strip(), "") if quality == 1.0 else ""
        words = max(0, response - len(said) // 4)
        return Answer((said + WORD * words).strip(), prompt, response, quality)
