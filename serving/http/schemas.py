"""Requests and responses, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.decision.exploration import MAX_FIELDS
from models.decision.wishes import Wishes
from models.release.release import MAX_QUERY_CHARACTERS

MAX_MESSAGES: Final = 2000
MAX_BATCH: Final = 1000
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Session = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=200,
        description="The conversation's id, for staying with one LLM (switching_cost).",
    ),
]


class NullsAbsent(BaseModel):
    """A field that is null counts as one that is not there.

    To pydantic every wrong item and unknown field is an error of its own, of hundreds of bytes. So
    lists here fail at their first wrong item, and records with a mass of fields at once.
    """

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, given: Any) -> Any:
        if isinstance(given, dict):
            if len(given) > MAX_FIELDS and cls.model_config.get("extra") == "forbid":
                raise ValueError(f"over {MAX_FIELDS} fields")
            return {name: value for name, value in given.items() if value is not None}
        return given


class RouteRequest(NullsAbsent, Wishes):
    """What to route, and how. Give ``willingness_to_pay`` or ``min_quality``, not both."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Annotated[
        str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="What the user asks.")
    ]
    session: Session = None
    explain: Annotated[bool, Field(description="Return every candidate's score and terms.")] = False


class Predicted(BaseModel):
    """What is predicted of the chosen LLM's answer."""

    quality: float = Field(description="Expected quality, in [0, 1].")
    cost_usd: float
    seconds: float
    response_tokens: float


class RouteResponse(BaseModel):
    """Whom to ask."""

    decision_id: str
    llm: str
    propensity: float = Field(description="The probability with which this LLM was chosen.")
    willingness_to_pay: float | None
    predicted: Predicted | None = Field(description="Null when the choice is a fallback.")
    domain: str | None = Field(description='"unknown" for a query unlike all training queries.')
    unseen_score: float | None = Field(
        description="Distance from the training queries; 1 is the threshold of unknown."
    )
    release: str | None = Field(description="The release's version in the registry.")
    fallback: str | None = Field(description="Why the router could not decide itself, if so.")
    explanation: dict[str, Any] | None = None


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


class Observation(NullsAbsent):
    """What a client saw that asked the chosen LLM itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision_id: Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")]
    seconds: Annotated[Amount, Field(le=86_400, description="From the request to its end.")]
    first_token_seconds: Annotated[Amount | None, Field(le=86_400)] = None
    prompt_tokens: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    response_tokens: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    failed: Annotated[bool, Field(description="No answer came.")] = False


class FeedbackRequest(NullsAbsent):
    """What somebody says of an answer: ``satisfied`` or ``quality``, one of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision_id: Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")]
    satisfied: Annotated[bool | None, Field(description="Was the answer good enough?")] = None
    quality: Annotated[
        float | None, Field(ge=0, le=1, allow_inf_nan=False, description="How good it was.")
    ] = None
    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100,
            description="Who or what judges. Each has one vote a decision; a later one corrects it.",
        ),
    ] = "user"
    comment: Annotated[str | None, Field(max_length=4000)] = None
    prompt_tokens: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    response_tokens: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    seconds: Annotated[Amount | None, Field(le=86_400)] = None

    @model_validator(mode="after")
    def _one_judgement(self) -> FeedbackRequest:
        if (self.satisfied is None) == (self.quality is None):
            raise ValueError("give satisfied or quality, one of them")
        return self


class FeedbackBatchRequest(NullsAbsent):
    """Many votes at once; each is kept or refused by itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    feedback: Annotated[
        list[FeedbackRequest], Field(fail_fast=True, min_length=1, max_length=MAX_BATCH)
    ]


class GraderResult(BaseModel):
    """What one grader of an OpenAI evaluation said of an answer."""

    model_config = ConfigDict(strict=True)

    score: Annotated[float | None, Field(allow_inf_nan=False)] = None


class NamedDecision(BaseModel):
    """What names a decision in the data of an evaluation."""

    model_config = ConfigDict(strict=True)

    decision_id: str | None = None


class EvaluatedData(NamedDecision):
    """The data of an item: the decision's id, or the completion with its field ``mixllm``."""

    mixllm: NamedDecision | None = None


class EvaluationItem(BaseModel):
    """An output item of an OpenAI evaluation run, as far as it is read."""

    model_config = ConfigDict(strict=True)

    datasource_item: EvaluatedData
    status: str | None = None
    results: Annotated[list[GraderResult], Field(fail_fast=True)] = []
    eval_id: str | None = None

    @property
    def decision_id(self) -> str:
        """Empty where the data names none."""
        nested = self.datasource_item.mixllm
        return self.datasource_item.decision_id or (nested and nested.decision_id) or ""


class FeedbackRefused(BaseModel):
    """A vote of a batch that was not kept. index: its place, from 0."""

    index: int
    message: str


class FeedbackBatchResponse(BaseModel):
    """kept: how many votes are durable now."""

    kept: int
    refused: list[FeedbackRefused]


class FeedbackEntry(BaseModel):
    """A vote as it is in the log. revision: above 1 where it corrects the one before."""

    received_at: str
    source: str
    revision: int
    llm: str
    satisfied: bool | None
    quality: float | None
    comment: str | None
    prompt_tokens: int | None
    response_tokens: int | None
    seconds: float | None


class DecisionResponse(BaseModel):
    """A decision as it was stored, and what became of it."""

    id: str
    decided_at: str
    llm: str
    propensity: float
    willingness_to_pay: float
    query: str | None
    query_sha256: str | None
    query_characters: int
    domain: str | None
    unseen_score: float | None
    scores: dict[str, Any]
    fallback: str | None
    release_version: str | None
    release_digest: str | None
    policy_version: int | None = Field(description="The policy state that had a say.")
    query_tokens: float | None
    seconds: float
    answer: dict[str, Any] | None = Field(description="Who answered, how, and at what cost.")


class ErrorBody(BaseModel):
    """type: the kind of error. param: the part of the request it is about."""

    type: str
    message: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The one form of every error."""

    error: ErrorBody
