"""Drift windows, alerts, the audit, and what challengers decide in shadow."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def when(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def number() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False)


def upgrade() -> None:
    op.create_index(
        "ix_decisions_release_digest_position", "decisions", ["release_digest", "position"]
    )
    op.create_index("ix_feedback_received_at", "feedback", ["received_at"])
    op.create_table(
        "drift_windows",
        number(),
        sa.Column("release_digest", sa.Text(), nullable=False),
        sa.Column("release_version", sa.Text(), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False, comment="The last position before it."),
        sa.Column("upto", sa.BigInteger(), nullable=False),
        when("started_at"),
        when("ended_at"),
        when("made_at"),
        sa.Column("decisions", sa.BigInteger(), nullable=False),
        sa.Column("figures", JSONB(), nullable=False),
        sa.Column("signals", JSONB(), nullable=False),
        sa.Column("held_voters", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("report", sa.Text(), comment="The report's address."),
        sa.PrimaryKeyConstraint("id", name="pk_drift_windows"),
        sa.UniqueConstraint(
            "release_digest", "after", name="uq_drift_windows_release_digest_after"
        ),
    )
    op.create_table(
        "alerts",
        number(),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), comment="The candidate or voter concerned."),
        sa.Column("release_digest", sa.Text(), nullable=False),
        sa.Column("release_version", sa.Text(), nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "since_position",
            sa.BigInteger(),
            nullable=False,
            comment="Decisions after it show it.",
        ),
        when("raised_at"),
        sa.Column("signal", JSONB(), nullable=False),
        sa.Column(
            "mode", sa.Text(), nullable=False, comment="observe, propose or act, as it was then."
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="open, closed."),
        sa.Column("outcome", sa.Text(), comment="What its repair came to."),
        when("closed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_name_subject_raised_at", "alerts", ["name", "subject", "raised_at"])
    op.create_index("ix_alerts_state", "alerts", ["state"])
    op.create_table(
        "audit",
        number(),
        when("at"),
        sa.Column("alert_id", sa.BigInteger()),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("evidence", JSONB(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_alert_id", "audit", ["alert_id"])
    op.create_table(
        "shadows",
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        when("decided_at"),
        sa.Column("release_digest", sa.Text(), nullable=False, comment="The challenger's."),
        sa.Column("release_version", sa.Text(), nullable=False),
        sa.Column("champion_version", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False, comment="The challenger's choice."),
        sa.Column("champion_llm", sa.Text(), nullable=False),
        sa.Column(
            "predicted_gain",
            sa.Double(),
            comment="Its choice's score less that of the champion's.",
        ),
        sa.Column("seconds", sa.Double(), nullable=False, comment="What its routing took."),
        sa.Column("champion_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("decision_id", name="pk_shadows"),
    )
    op.create_index(
        "ix_shadows_release_digest_decided_at", "shadows", ["release_digest", "decided_at"]
    )


def downgrade() -> None:
    for table in ("shadows", "audit", "alerts", "drift_windows"):
        op.drop_table(table)
    op.drop_index("ix_feedback_received_at", "feedback")
    op.drop_index("ix_decisions_release_digest_position", "decisions")
