"""Requests and responses, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.decision import Wishes
from models.release import MAX_QUERY_CHARACTERS


class RouteRequest(Wishes):
    """What to route, and how. Give ``willingness_to_pay`` or ``min_quality``, not both."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Annotated[
        str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="What the user asks.")
    ]
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
    willingness_to_pay: float
    predicted: Predicted | None = Field(description="Null when the choice is a fallback.")
    domain: str | None = Field(description='"unknown" for a query unlike all training queries.')
    unseen_score: float | None = Field(
        description="Distance from the training queries; 1 is the threshold of unknown."
    )
    release: str | None = Field(description="The release's version in the registry.")
    fallback: str | None = Field(description="Why the router could not decide itself, if so.")
    explanation: dict[str, Any] | None = None


class DecisionResponse(BaseModel):
    """A decision as it was stored."""

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
    seconds: float


class ErrorBody(BaseModel):
    """type: the kind of error. param: the part of the request it is about."""

    type: str
    message: str
    param: str | None = None


class ErrorResponse(BaseModel):
    """The one form of every error."""

    error: ErrorBody
