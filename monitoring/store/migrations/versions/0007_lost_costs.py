"""What LLMs may charge for calls that brought no answer: too late, broken off, left by the client."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "May be charged for calls that brought no answer."
    op.add_column("answers", sa.Column("lost_usd", sa.Double(), comment=comment))


def downgrade() -> None:
    op.drop_column("answers", "lost_usd")
