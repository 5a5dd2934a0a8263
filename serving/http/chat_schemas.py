"""Chat completions and models, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from models.decision.wishes import Wishes
from serving.http.schemas import NullsAbsent, Session

MAX_MESSAGES: Final = 2000


class ChatOptions(NullsAbsent, Wishes):
    """How a chat completion is routed: the request's field ``mixllm``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    session: Session = None
    fallback: Annotated[
        bool, Field(description="Ask the next best LLM where the chosen one fails.")
    ] = True


class ChatMessage(BaseModel):
    """One message; what is not named here goes to the LLM as it is."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=100)]
    content: str | Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None


class StreamOptions(NullsAbsent):
    """What a stream tells besides the answer."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class ChatRequest(NullsAbsent):
    """A chat completion in OpenAI's form; what is not named here goes to the LLM as it is."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            description='"mixllm" to route; a candidate\'s name asks that one and no other.',
            examples=["mixllm"],
        ),
    ]
    messages: Annotated[
        list[ChatMessage],
        Field(
            fail_fast=True,
            min_length=1,
            max_length=MAX_MESSAGES,
            examples=[[{"role": "user", "content": "What is 12 * 7?"}]],
        ),
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=1000)] | None = None
    mixllm: ChatOptions | None = None


class ChatResponse(BaseModel):
    """The LLM's answer as it came, and what is said of its routing."""

    model_config = ConfigDict(extra="allow")

    choices: list[Any]
    mixllm: dict[str, Any] = Field(
        description="llm, decision_id, release, fallback (why another than the router's choice "
        "answered), cost_usd, usage (reported or estimated), lost_usd (what LLMs may charge for "
        "calls before it that brought no answer)."
    )


class ModelEntry(BaseModel):
    """A name that ``model`` may have."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """Every name that ``model`` may have."""

    object: str = "list"
    data: list[ModelEntry]
