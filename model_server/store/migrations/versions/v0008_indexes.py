"""The last runs, for the queue's state, and the oldest images, for the clean-up, are found without reading others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    ran = sa.text("status = 'succeeded' AND attempts > 0")
    op.create_index("predictions_run", "predictions", ["finished_at"], postgresql_where=ran)
    op.create_index("images_created", "images", ["created_at"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("images_created", "images")
    op.drop_index("predictions_run", "predictions")
