"""How the encoder is tuned."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.encoder.split import TuningSplit


class TuningSettings(BaseModel):
    """How the encoder is tuned; part of the tuned encoder's identity.

    base_model: ``packaged`` MiniLM, a folder or a Hugging Face name. frozen_layers: the first
    layers that stay as they are; 0 tunes all. dropout: before the head only, since inside the
    layers it takes a third of the time. max_tokens: the encoder's window. domain_weight:
    weight of L_intra + separation · L_inter. margin: cosine below which domains are apart enough.
    routing_weight: weight of the routing-aware term. The rate rises over the first ``warmup`` share
    of the steps and falls to zero at the last. max_queries: a larger training set is sampled, so
    that the time is bounded. held_share: training queries that tuning never reads, for stopping and
    for the predictors' own choices. patience: epochs without gain.
    may_stay: whether the encoder as it was is kept when no epoch serves routing better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: str = "packaged"
    frozen_layers: int = Field(default=4, ge=0)
    max_tokens: int = Field(default=128, ge=16, le=512)
    epochs: int = Field(default=1, ge=1)
    patience: int = Field(default=1, ge=1)
    may_stay: bool = True
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-4, gt=0)
    head_learning_rate: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    domain_weight: float = Field(default=0.05, ge=0)
    separation: float = Field(default=1.0, ge=0)
    margin: float = Field(default=0.2, ge=-1, le=1)
    routing_weight: float = Field(default=1.0, ge=0)
    max_queries: int = Field(default=10_000, ge=100)
    held_share: float = Field(default=0.15, gt=0, lt=0.5)
    precision: Literal["auto", "no", "bf16"] = "auto"
    seed: int = 0

    @property
    def split(self) -> TuningSplit:
        return TuningSplit(self.held_share, self.seed)
