"""A finished prediction may be due to two receivers: its own callback, and the sink of all results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("predictions", sa.Column("forwarded", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("callbacks", sa.Column("receiver", sa.Text(), server_default="callback", nullable=False))
    op.create_check_constraint("receiver_known", "callbacks", "receiver IN ('callback', 'sink')")
    op.drop_constraint("callbacks_pkey", "callbacks")
    op.create_primary_key("callbacks_pkey", "callbacks", ["prediction_id", "receiver"])
    op.drop_index("callbacks_due", "callbacks")
    op.create_index(
        "callbacks_due", "callbacks", ["receiver", "due_at"], postgresql_where=sa.text("gave_up_at IS NULL")
    )


def downgrade() -> None:
    """Undo; what the sink has not got is forgotten."""
    op.drop_index("callbacks_due", "callbacks")
    op.execute("DELETE FROM callbacks WHERE receiver <> 'callback'")
    op.drop_constraint("callbacks_pkey", "callbacks")
    op.create_primary_key("callbacks_pkey", "callbacks", ["prediction_id"])
    op.drop_constraint("receiver_known", "callbacks")
    op.drop_column("callbacks", "receiver")
    op.create_index("callbacks_due", "callbacks", ["due_at"], postgresql_where=sa.text("gave_up_at IS NULL"))
    op.drop_column("predictions", "forwarded")
