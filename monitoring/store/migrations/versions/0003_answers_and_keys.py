"""What became of each decision, and who may ask."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key_comment = "The API key that asked; null where none is needed."
    op.add_column("decisions", sa.Column("key_id", sa.Text(), comment=key_comment))
    op.create_table(
        "answers",
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("llm", sa.Text(), comment="Who answered; null where nobody did."),
        sa.Column(
            "status", sa.Text(), nullable=False, comment="answered, broken, failed or cancelled."
        ),
        sa.Column("error", sa.Text()),
        sa.Column(
            "attempts", JSONB(), nullable=False, comment="Each try: candidate, outcome, seconds."
        ),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("response_tokens", sa.Integer()),
        sa.Column("cost_usd", sa.Double()),
        sa.Column("first_token_seconds", sa.Double()),
        sa.Column(
            "seconds", sa.Double(), nullable=False, comment="From the request to the answer's end."
        ),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.PrimaryKeyConstraint("decision_id", name="pk_answers"),
    )
    op.create_index("ix_answers_position", "answers", ["position"], unique=True)
    op.create_index("ix_answers_finished_at", "answers", ["finished_at"])
    op.create_index("ix_answers_key_id_finished_at", "answers", ["key_id", "finished_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("monthly_budget_usd", sa.Double()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
    )
    in_use = sa.text("revoked_at IS NULL")
    op.create_index("ix_api_keys_name", "api_keys", ["name"], unique=True, postgresql_where=in_use)


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("answers")
    op.drop_column("decisions", "key_id")
