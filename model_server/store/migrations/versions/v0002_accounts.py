"""Users, API keys, the key that signs tokens; and whose a prediction is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")
_WITH_KEY = sa.text("idempotency_key IS NOT NULL")
_MOMENT = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("password_set_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.Column("is_admin", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email_key"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.Column("last_used_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index("api_keys_user", "api_keys", ["user_id"])
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.CheckConstraint("id = 1", name="only_one"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("predictions", sa.Column("user_id", sa.Uuid(), nullable=True))
    op.create_index(
        "predictions_user", "predictions", ["user_id", "id"], postgresql_where=sa.text("user_id IS NOT NULL")
    )
    op.drop_index("predictions_idempotency", "predictions")
    op.create_index(
        "predictions_idempotency",
        "predictions",
        ["idempotency_key", "user_id"],
        unique=True,
        postgresql_where=_WITH_KEY,
        postgresql_nulls_not_distinct=True,
    )


def downgrade() -> None:
    """Undo; of several users' predictions with one idempotency key the oldest keeps it."""
    op.drop_index("predictions_idempotency", "predictions")
    op.execute("""
        UPDATE predictions AS p SET idempotency_key = NULL, fingerprint = NULL WHERE EXISTS (
          SELECT FROM predictions AS older WHERE older.idempotency_key = p.idempotency_key AND older.id < p.id)
    """)
    op.create_index(
        "predictions_idempotency", "predictions", ["idempotency_key"], unique=True, postgresql_where=_WITH_KEY
    )
    op.drop_index("predictions_user", "predictions")
    op.drop_column("predictions", "user_id")
    for table in ("signing_keys", "api_keys", "users"):
        op.drop_table(table)
