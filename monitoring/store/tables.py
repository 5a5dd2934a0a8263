"""The Postgres tables, as the migrations make them."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
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
    UniqueConstraint,
    Uuid,
    text,
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
    Column("key_id", Text, comment="The API key that asked; null where none is needed."),
    Column("policy_version", BigInteger, comment="The policy state that had a say, if any had."),
    Column("form", LargeBinary, comment="float32: what predictors read beside the embedding."),
    Column("query_tokens", Double, comment="By the encoder's tokenizer."),
    Index(None, "position", unique=True),
    Index(None, "decided_at"),
    Index(None, "llm", "decided_at"),
    Index(None, "release_digest", "position"),
)

# What became of a decision that was carried out: one row a chat completion or a client's report.
answers = Table(
    "answers",
    metadata,
    Column("decision_id", Uuid, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    Column("llm", Text, comment="Who answered; null where nobody did."),
    Column("status", Text, nullable=False, comment="answered, broken, failed or cancelled."),
    Column("error", Text),
    Column("attempts", JSONB, nullable=False, comment="Each try: candidate, outcome, seconds."),
    Column("prompt_tokens", Integer),
    Column("response_tokens", Integer),
    Column("cost_usd", Double),
    Column("lost_usd", Double, comment="May be charged for calls that brought no answer."),
    Column("first_token_seconds", Double),
    Column("seconds", Double, nullable=False, comment="From the request to the answer's end."),
    Column("streamed", Boolean, nullable=False),
    Column("key_id", Text),
    Index(None, "position", unique=True),
    Index(None, "finished_at"),
    Index(None, "key_id", "finished_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False, unique=True),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("requests_per_minute", Integer),
    Column("monthly_budget_usd", Double),
    Column("exploration", JSONB, comment="How choices for this key are drawn."),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    # A name is free again once its key is revoked.
    Index(None, "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
)

# Whether a key is needed: each change; the last one counts. Without a row nobody ever said.
key_requirements = Table(
    "key_requirements",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("stated_at", DateTime(timezone=True), nullable=False),
    Column("keys_required", Boolean, nullable=False),
    Column("reason", Text, nullable=False, comment="The command that said it."),
)

# What was said of answers, each vote and each correction. `position` is in the order of the commits:
# whoever inserts holds a lock (monitoring.store.feedback), so that no reader's cursor passes a row by.
feedback = Table(
    "feedback",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("decision_id", Uuid, nullable=False),
    Column("source", Text, nullable=False, comment="Who or what judged, as the caller says."),
    Column("key_id", Text),
    Column("revision", Integer, nullable=False, comment="1, then one more with each correction."),
    Column("llm", Text, nullable=False, comment="Who answered."),
    Column("satisfied", Boolean),
    Column("quality", Double, comment="In [0, 1]; null where the vote is binary."),
    Column("replaced_reward", Double, comment="What the vote before this one gave."),
    Column("comment", Text),
    Column("prompt_tokens", Integer),
    Column("response_tokens", Integer),
    Column("seconds", Double),
    UniqueConstraint(
        "decision_id", "source", "key_id", "revision", postgresql_nulls_not_distinct=True
    ),
    Index(None, "position", unique=True),
    Index(None, "llm", "position"),
    Index(None, "received_at"),
)

# The releases that have decided, and which parts they were made of.
releases = Table(
    "releases",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("encoder", Text, nullable=False),
    Column("predictors", JSONB, nullable=False, comment="Candidate: its predictor's digest."),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
)

# What the learner made of the feedback, each a whole state with the position it is of.
policy_states = Table(
    "policy_states",
    metadata,
    Column("version", BigInteger, Identity(always=True), primary_key=True),
    Column("release_digest", Text, nullable=False),
    Column("cursor", BigInteger, nullable=False, comment="The last vote's position."),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("digest", Text, nullable=False, comment="SHA-256 of the state."),
    Column("state", LargeBinary, nullable=False),
    Column("statistics", JSONB, nullable=False),
    Column("refused", Text, comment="Why nobody may use it, if so."),
    Index(None, "release_digest", "version"),
)

# Votes that teach nothing: those after one position up to another, of one voter or of all.
policy_skips = Table(
    "policy_skips",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("release_digest", Text, comment="Null: whatever the release."),
    Column("after", BigInteger, nullable=False),
    Column("upto", BigInteger, nullable=False),
    Column("voter", Text, comment="Null: all."),
    Column("made_at", DateTime(timezone=True), nullable=False),
    Column("by_version", BigInteger, comment="The state that the roll-back made."),
    Column("reason", Text, nullable=False),
)

# Stretches of a release's decisions in which drift was looked for. A window follows its predecessor.
drift_windows = Table(
    "drift_windows",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("release_digest", Text, nullable=False),
    Column("release_version", Text, nullable=False),
    Column("after", BigInteger, nullable=False, comment="The last position before it."),
    Column("upto", BigInteger, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True), nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False),
    Column("decisions", BigInteger, nullable=False),
    Column("figures", JSONB, nullable=False),
    Column("signals", JSONB, nullable=False),
    Column("held_voters", ARRAY(Text), nullable=False),
    Column("report", Text, comment="The report's address."),
    UniqueConstraint("release_digest", "after"),
)

# What was raised, and what became of it.
alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("subject", Text, comment="The candidate or voter concerned."),
    Column("release_digest", Text, nullable=False),
    Column("release_version", Text, nullable=False),
    Column("window_id", BigInteger, nullable=False),
    Column("since_position", BigInteger, nullable=False, comment="Decisions after it show it."),
    Column("raised_at", DateTime(timezone=True), nullable=False),
    Column("signal", JSONB, nullable=False),
    Column("mode", Text, nullable=False, comment="observe, propose or act, as it was then."),
    Column("state", Text, nullable=False, comment="open, closed."),
    Column("outcome", Text, comment="What its repair came to."),
    Column("closed_at", DateTime(timezone=True)),
    Index(None, "name", "subject", "raised_at"),
    Index(None, "state"),
)

# Every step that the platform took by itself: what, why, on which evidence, with what result.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("alert_id", BigInteger),
    Column("what", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("result", Text, nullable=False),
    Index(None, "at"),
    Index(None, "alert_id"),
)

# What the challenger would have chosen, where it was asked beside the champion.
shadows = Table(
    "shadows",
    metadata,
    Column("decision_id", Uuid, primary_key=True),
    Column("decided_at", DateTime(timezone=True), nullable=False),
    Column("release_digest", Text, nullable=False, comment="The challenger's."),
    Column("release_version", Text, nullable=False),
    Column("champion_version", Text, nullable=False),
    Column("llm", Text, nullable=False, comment="The challenger's choice."),
    Column("champion_llm", Text, nullable=False),
    Column("predicted_gain", Double, comment="Its choice's score less that of the champion's."),
    Column("seconds", Double, nullable=False, comment="What its routing took."),
    Column("champion_seconds", Double, nullable=False),
    Index(None, "release_digest", "decided_at"),
)
