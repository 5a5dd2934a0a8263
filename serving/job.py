"""One chat completion: what is to be carried out, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.catalog import Candidate
from models.conversation import CHARACTERS_PER_TOKEN

Body = dict[str, Any]


@dataclass
class Job:
    """One chat completion to carry out, and what became of it.

    ranking: candidates to ask, best first; more than one unless the client pinned one. body: as it is
    sent on. response_tokens: predicted of each candidate. prompt_tokens: predicted, for where no
    usage comes back. told: what the response says of its routing.
    """

    decision_id: str
    ranking: Sequence[str]
    body: Body
    stream: bool
    entries: Mapping[str, Candidate]
    response_tokens: Mapping[str, float]
    prompt_tokens: float
    told: dict[str, Any]
    key_id: str | None = None
    started: float = field(default_factory=time.monotonic)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    llm: str | None = None
    first_token: float | None = None
    usage: Body | None = None
    characters: int = 0

    @property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def read(self, parsed: Body) -> None:
        """Take the usage, or the length, from an answer or an event of it."""
        if isinstance(parsed.get("usage"), dict):
            self.usage = parsed["usage"]
        for choice in parsed["choices"]:
            said = (
                choice.get("delta") or choice.get("message") if isinstance(choice, dict) else None
            )
            if isinstance(said, dict):
                for key in ("content", "tool_calls"):
                    self.characters += len(str(said.get(key) or ""))

    @property
    def reported(self) -> tuple[int, int] | None:
        """Prompt and response tokens as the LLM counts them; None where it does not say."""
        usage = self.usage or {}
        prompt, response = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(response, int) and min(prompt, response) >= 0:
            return prompt, response
        return None

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and response tokens: as reported, else estimated."""
        estimated = round(self.prompt_tokens), -(-self.characters // CHARACTERS_PER_TOKEN)
        return self.reported or estimated

    @property
    def cost(self) -> float | None:
        """USD; None where nobody answered."""
        if self.llm is None:
            return None
        entry, (prompt, response) = self.entries[self.llm], self.tokens
        return round((entry.input_price * prompt + entry.output_price * response) / 1e6, 12)

    def extension(self, final: bool) -> Body:
        """The response's ``mixllm`` field. final: all is known of the answer, its cost included."""
        told = {**self.told, "llm": self.llm}
        if self.llm is not None and self.llm != self.ranking[0]:
            unpaid = self.attempts and self.attempts[0]["outcome"] == "over_budget"
            why = "is more than the key's budget pays for" if unpaid else "failed"
            told["fallback"] = f"{self.ranking[0]} {why}"
        if final:
            told |= {"cost_usd": self.cost, "usage": "reported" if self.reported else "estimated"}
        return told
