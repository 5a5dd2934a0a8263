"""Tags by any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import openai

from models.digest import digest_json
from models.domains.taggers import Tags, parse_tags
from models.errors import TaggingError
from models.prices import token_cost

PROMPT: Final = (
    "Name the intents of the user query below: its topic and the form of its task, each as a tag of "
    'one to four words. Answer with a JSON list only: [{"tag": "..."}, ...], two to six tags, the '
    "most telling first. Do not answer the query."
)
READ_CHARACTERS: Final = 8_000
CHARACTERS_PER_TOKEN: Final = 4
EXPECTED_RESPONSE_TOKENS: Final = 60
MAX_RESPONSE_TOKENS: Final = 300


@dataclass(frozen=True)
class TaggingCost:
    """Tokens and what they cost. usd: None where no price is set."""

    queries: int
    prompt_tokens: int
    response_tokens: int
    usd: float | None

    def __str__(self) -> str:
        cost = "no price set" if self.usd is None else f"{self.usd:.4f} USD"
        return (
            f"{self.queries} queries, {self.prompt_tokens} prompt and {self.response_tokens} "
            f"response tokens, {cost}"
        )


@dataclass(frozen=True)
class ChatModel:
    """A model behind an OpenAI-compatible endpoint, and how it is asked.

    base_url: ``/v1`` included.
    concurrency: requests at a time.
    retries: of each request, with backoff.
    timeout: seconds.
    """

    base_url: str
    model: str
    api_key: str = "none"
    concurrency: int = 8
    retries: int = 5
    timeout: float = 60.0


@dataclass(frozen=True)
class TokenPrices:
    """USD per million tokens."""

    input: float
    output: float


class LLMTagger:
    """Tags by a chat model. ``spent`` adds up the tokens that the endpoint reports."""

    def __init__(self, chat: ChatModel, prices: TokenPrices | None = None) -> None:
        self.chat, self.prices = chat, prices
        self.spent = self._cost(0, 0, 0)

    @property
    def digest(self) -> str:
        return digest_json(["llm", self.chat.model, PROMPT, READ_CHARACTERS, MAX_RESPONSE_TOKENS])

    def estimate(self, queries: Sequence[str]) -> TaggingCost:
        """What tagging these queries will take, by their length in characters."""
        read = sum(len(PROMPT) + min(len(query), READ_CHARACTERS) for query in queries)
        count = len(queries)
        return self._cost(count, read // CHARACTERS_PER_TOKEN, EXPECTED_RESPONSE_TOKENS * count)

    def tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Tags]:
        """Tags of each query; () where the answer holds none that can be read.

        Raises TaggingError when the endpoint still fails after its retries.
        """
        return asyncio.run(self._tag(queries, progress))

    async def _tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None
    ) -> list[Tags]:
        limit = asyncio.Semaphore(self.chat.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.chat.base_url,
            api_key=self.chat.api_key,
            max_retries=self.chat.retries,
            timeout=self.chat.timeout,
        ) as client:

            async def one(query: str) -> Tags:
                async with limit:
                    tags = await self._ask(client, query)
                if progress is not None:
                    progress(1)
                return tags

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(query)) for query in queries]
            except* openai.OpenAIError as errors:
                first = errors.exceptions[0]
                raise TaggingError(
                    f"tagging by {self.chat.model} at {self.chat.base_url} failed after "
                    f"{self.chat.retries} retries: {first}; run it again: finished tags are kept"
                ) from first
        return [task.result() for task in tasks]

    async def _ask(self, client: openai.AsyncOpenAI, query: str) -> Tags:
        answer = await client.chat.completions.create(
            model=self.chat.model,
            messages=[
                {"role": "system", "content": PROMPT},
                {"role": "user", "content": query[:READ_CHARACTERS]},
            ],
            temperature=0,
            max_tokens=MAX_RESPONSE_TOKENS,
        )
        used, spent = answer.usage, self.spent
        self.spent = self._cost(
            spent.queries + 1,
            spent.prompt_tokens + (used.prompt_tokens if used else 0),
            spent.response_tokens + (used.completion_tokens if used else 0),
        )
        return parse_tags((answer.choices[0].message.content or "") if answer.choices else "")

    def _cost(self, queries: int, prompt: int, response: int) -> TaggingCost:
        usd = None
        if self.prices is not None:
            usd = token_cost(prompt, response, self.prices.input, self.prices.output)
        return TaggingCost(queries, prompt, response, usd)
