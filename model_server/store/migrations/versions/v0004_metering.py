"""What is counted: calls of each route, what each user takes, and what a user may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MOMENT = postgresql.TIMESTAMP(timezone=True)
_ZERO = sa.text("0")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_calls",
        sa.Column("api", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("begins_at", _MOMENT, nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("api", "unit", "begins_at"),
    )
    op.create_table(
        "usage",
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default=_ZERO, nullable=False),
        sa.Column("images", sa.BigInteger(), server_default=_ZERO, nullable=False),
        sa.Column("compute_seconds", sa.Double(), server_default=_ZERO, nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default=_ZERO, nullable=False),
        sa.UniqueConstraint("user_id", "day", name="usage_user_day", postgresql_nulls_not_distinct=True),
    )
    op.create_index("usage_day", "usage", ["day"])
    op.create_table(
        "quotas",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("requests_per_second", sa.Double(), nullable=True),
        sa.Column("burst", sa.Integer(), nullable=True),
        sa.Column("images_per_day", sa.BigInteger(), nullable=True),
        sa.Column("set_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id"),
    )


def downgrade() -> None:
    """Undo."""
    for table in ("quotas", "usage", "api_calls"):
        op.drop_table(table)
