"""How far each query lay from the training queries."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "Above 1 the query is of no known domain."
    op.add_column("decisions", sa.Column("unseen_score", sa.Double(), comment=comment))


def downgrade() -> None:
    op.drop_column("decisions", "unseen_score")
