"""Observations and feedback, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.http.schemas import Amount, NullsAbsent

MAX_BATCH: Final = 1000


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
