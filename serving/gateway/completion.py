"""One chat completion: what is to be carried out, and what became of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from models.billing import Billed, bill, merge_usage, read_usage
from models.catalog import Candidate
from models.queries.conversation import BYTES_PER_TOKEN, length_of

Body = dict[str, Any]
# What an LLM is paid for of a message.
GENERATED: Final = (
    "content", "tool_calls", "function_call", "refusal",
)  # fmt: skip
REASONING: Final = ("reasoning_content", "reasoning")


@dataclass
class Job:
    """One chat completion to carry out, and what became of it.

    ranking: candidates to ask, best first; more than one unless the client pinned one.
    body: as it is sent on.
    response_tokens: predicted of each candidate.
    prompt_tokens: predicted, for where no usage comes back.
    told: what the response says of its routing.
    most_prompt_tokens: rather too many than too few, for what is held.
    length: bytes of UTF-8 that were generated; counted: those before the last usage.
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
    most_prompt_tokens: float = 0.0
    started: float = field(default_factory=time.monotonic)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    llm: str | None = None
    first_token: float | None = None
    usage: Body | None = None
    length: int = 0
    counted: int = 0

    @property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def read(self, parsed: Body) -> None:
        """Take the usage, and the length, from an answer or an event of it."""
        choices = parsed.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            said = (
                choice.get("delta") or choice.get("message") if isinstance(choice, dict) else None
            )
            if isinstance(said, dict):
                self.length += sum(length_of(said.get(name)) for name in GENERATED)
                # Some servers send the same reasoning under both names.
                self.length += max(length_of(said.get(name)) for name in REASONING)
        if isinstance(parsed.get("usage"), dict):
            self.usage = merge_usage(self.usage, parsed["usage"])
            self.counted = self.length

    @property
    def billed(self) -> Billed | None:
        """What the answer took and cost; None where nobody answered."""
        if self.llm is None:
            return None
        prompt, response = math.ceil(self.prompt_tokens), -(-self.length // BYTES_PER_TOKEN)
        usage = read_usage(self.usage, prompt, response)
        if self.length > self.counted:  # text came after the last count, as in a stream cut short
            more = max(usage.response_tokens, response)
            usage = replace(usage, response_tokens=more, reported=False, stated_cost=None)
        return bill(self.entries[self.llm], usage)

    @property
    def lost(self) -> float:
        """USD that LLMs may charge for calls that brought no answer; estimated."""
        return float(sum(attempt.get("lost_usd", 0.0) for attempt in self.attempts))

    @property
    def cost(self) -> float | None:
        """USD of the answer; None where nobody answered."""
        billed = self.billed
        return None if billed is None else billed.cost

    def extension(self, *, final: bool) -> Body:
        """The response's ``mixllm`` field. final: all is known of the answer, its cost included."""
        told = {**self.told, "llm": self.llm}
        if self.llm is not None and self.llm != self.ranking[0]:
            unpaid = self.attempts and self.attempts[0]["outcome"] == "over_budget"
            why = "is more than the key's budget pays for" if unpaid else "failed"
            told["fallback"] = f"{self.ranking[0]} {why}"
        if final:
            billed = self.billed
            reported = billed is not None and billed.usage.reported
            told |= {"cost_usd": self.cost, "usage": "reported" if reported else "estimated"}
            if self.lost:
                told["lost_usd"] = self.lost
        return told
