"""What a request asks of its decision."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.decision.estimates import DecisionDefaults, Finite, WillingnessToPay
from models.decision.exploration import Exploration


class Wishes(BaseModel):
    """What one request asks of its decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    willingness_to_pay: Annotated[
        WillingnessToPay | None,
        Field(description="USD per unit of quality; the release's default when absent."),
    ] = None
    min_quality: Annotated[
        float | None,
        Field(ge=0, le=1, description="Take the cheapest LLM predicted to reach this quality."),
    ] = None
    max_cost: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="USD for this answer, at most.")
    ] = None
    candidates: Annotated[
        Annotated[
            tuple[str, ...],
            Field(fail_fast=True, strict=False, min_length=1, max_length=1000),
        ]
        | None,
        Field(description="Choose among these only."),
    ] = None
    abilities: Annotated[
        tuple[str, ...],
        Field(
            fail_fast=True,
            strict=False,
            max_length=100,
            description="What the LLM must be able to do.",
        ),
    ] = ()
    beta: Annotated[
        Finite | None,
        Field(description="Weight of the latency penalty; the release's default when absent."),
    ] = None
    time_limit: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="Seconds after which an answer is late."),
    ] = None
    switching_cost: Annotated[
        Finite | None,
        Field(
            description="Score that another LLM than the session's last must win by; "
            "the service's default when absent."
        ),
    ] = None
    exploration: Annotated[
        Exploration | None,
        Field(description="How the choice is drawn; the key's or the service's way when absent."),
    ] = None

    @model_validator(mode="after")
    def _one_aim(self) -> Wishes:
        if self.willingness_to_pay is not None and self.min_quality is not None:
            raise ValueError("give willingness_to_pay or min_quality, not both")
        return self

    def over(self, defaults: DecisionDefaults) -> DecisionDefaults:
        """The defaults with what was wished for in their place."""
        names = ("willingness_to_pay", "beta", "time_limit")
        wished = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return defaults.model_copy(update=wished) if wished else defaults
