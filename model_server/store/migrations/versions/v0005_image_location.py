"""Images may be kept outside of the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("images", sa.Column("location", sa.Text(), nullable=True))
    op.add_column("images", sa.Column("size", sa.Integer(), nullable=True))
    op.alter_column("images", "content", nullable=True)
    op.create_check_constraint(
        "kept_somewhere", "images", "content IS NOT NULL OR location IS NOT NULL AND size IS NOT NULL"
    )


def downgrade() -> None:
    """Undo; images that are elsewhere stay there, and their rows are left without content."""
    op.drop_constraint("kept_somewhere", "images")
    op.execute("UPDATE images SET content = '' WHERE content IS NULL")
    op.alter_column("images", "content", nullable=False)
    op.drop_column("images", "size")
    op.drop_column("images", "location")
