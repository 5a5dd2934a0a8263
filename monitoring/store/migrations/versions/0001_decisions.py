"""Decisions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("willingness_to_pay", sa.Double(), nullable=False),
        sa.Column("query", sa.Text(), comment="Only where store_queries is full."),
        sa.Column("query_sha256", sa.Text(), comment="Only where store_queries is full or hash."),
        sa.Column("query_characters", sa.Integer(), nullable=False),
        sa.Column("domain", sa.Text()),
        sa.Column(
            "embedding",
            sa.LargeBinary(),
            comment="float32, little-endian; null when routing failed.",
        ),
        sa.Column(
            "scores",
            postgresql.JSONB(),
            nullable=False,
            comment="Each candidate's score and its terms.",
        ),
        sa.Column("fallback", sa.Text(), comment="Why the decision is not the router's own."),
        sa.Column("release_version", sa.Text()),
        sa.Column("release_digest", sa.Text()),
        sa.Column("seconds", sa.Double(), nullable=False, comment="What the routing took."),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_position", "decisions", ["position"], unique=True)
    op.create_index("ix_decisions_decided_at", "decisions", ["decided_at"])
    op.create_index("ix_decisions_llm_decided_at", "decisions", ["llm", "decided_at"])


def downgrade() -> None:
    op.drop_table("decisions")
