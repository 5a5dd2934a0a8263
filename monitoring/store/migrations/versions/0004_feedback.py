"""Feedback, the states that are learned from it, and what refitting predictors needs of a decision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column(
            "policy_version",
            sa.BigInteger(),
            comment="The policy state that had a say, if any had.",
        ),
        sa.Column(
            "form", sa.LargeBinary(), comment="float32: what predictors read beside the embedding."
        ),
        sa.Column("query_tokens", sa.Double(), comment="By the encoder's tokenizer."),
    ):
        op.add_column("decisions", column)
    comment = "How choices for this key are drawn."
    op.add_column("api_keys", sa.Column("exploration", JSONB(), comment=comment))
    op.create_table(
        "feedback",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="Who or what judged, as the caller says."
        ),
        sa.Column("key_id", sa.Text()),
        sa.Column(
            "revision",
            sa.Integer(),
            nullable=False,
            comment="1, then one more with each correction.",
        ),
        sa.Column("llm", sa.Text(), nullable=False, comment="Who answered."),
        sa.Column("satisfied", sa.Boolean()),
        sa.Column("quality", sa.Double(), comment="In [0, 1]; null where the vote is binary."),
        sa.Column("replaced_reward", sa.Double(), comment="What the vote before this one gave."),
        sa.Column("comment", sa.Text()),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("response_tokens", sa.Integer()),
        sa.Column("seconds", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint(
            "decision_id",
            "source",
            "key_id",
            "revision",
            name="uq_feedback_decision_id_source_key_id_revision",
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index("ix_feedback_position", "feedback", ["position"], unique=True)
    op.create_index("ix_feedback_llm_position", "feedback", ["llm", "position"])
    op.create_table(
        "releases",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column(
            "predictors", JSONB(), nullable=False, comment="Candidate: its predictor's digest."
        ),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_releases"),
    )
    op.create_table(
        "policy_states",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("release_digest", sa.Text(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False, comment="The last vote's position."),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, comment="SHA-256 of the state."),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("statistics", JSONB(), nullable=False),
        sa.Column("refused", sa.Text(), comment="Why nobody may use it, if so."),
        sa.PrimaryKeyConstraint("version", name="pk_policy_states"),
    )
    op.create_index(
        "ix_policy_states_release_digest_version", "policy_states", ["release_digest", "version"]
    )
    op.create_table(
        "policy_skips",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("release_digest", sa.Text(), comment="Null: whatever the release."),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.Column("upto", sa.BigInteger(), nullable=False),
        sa.Column("voter", sa.Text(), comment="Null: all."),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by_version", sa.BigInteger(), comment="The state that the roll-back made."),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policy_skips"),
    )


def downgrade() -> None:
    for table in ("policy_skips", "policy_states", "releases", "feedback"):
        op.drop_table(table)
    op.drop_column("api_keys", "exploration")
    for column in ("query_tokens", "form", "policy_version"):
        op.drop_column("decisions", column)
