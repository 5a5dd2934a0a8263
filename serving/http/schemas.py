"""Requests and responses, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.decision.exploration import MAX_FIELDS
from models.decision.wishes import Wishes
from models.release.release import MAX_QUERY_CHARACTERS

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
