"""The Postgres tables, as the migrations make them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row a routing. `position` is the order in which rows arrived: what a reader's cursor counts.
decisions = Table(
    "decisions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False),
    Column("llm", Text, nullable=False),
    Column("propensity", Double, nullable=False),
    Column("willingness_to_pay", Double, nullable=False),
    Column("query", Text, comment="Only where store_queries is full."),
    Column("query_sha256", Text, comment="Only where store_queries is full or hash."),
    Column("query_characters", Integer, nullable=False),
    Column("domain", Text),
    Column("unseen_score", Double, comment="Above 1 the query is of no known domain."),
    Column("embedding", LargeBinary, comment="float32, little-endian; null when routing failed."),
    Column("scores", JSONB, nullable=False, comment="Each candidate's score and its terms."),
    Column("fallback", Text, comment="Why the decision is not the router's own."),
    Column("release_version", Text),
    Column("release_digest", Text),
    Column("seconds", Double, nullable=False, comment="What the routing took."),
    Index(None, "position", unique=True),
    Index(None, "decided_at"),
    Index(None, "llm", "decided_at"),
)
