"""Whether a key is needed, as commands said; where keys were ever made, one is."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_requirements",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("keys_required", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="The command that said it."),
        sa.PrimaryKeyConstraint("id", name="pk_key_requirements"),
    )
    op.execute(
        "INSERT INTO key_requirements (stated_at, keys_required, reason) "
        "SELECT now(), true, 'keys were made before this table' "
        "WHERE EXISTS (SELECT FROM api_keys)"
    )


def downgrade() -> None:
    op.drop_table("key_requirements")
