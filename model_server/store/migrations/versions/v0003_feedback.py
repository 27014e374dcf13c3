"""Feedback, the labels of model versions, and counts of predictions that outlive them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FINISHED = sa.text("finished_at IS NOT NULL")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "prediction_counts",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("predictions", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", "model_version", "day"),
    )
    op.create_table(
        "model_labels",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.ARRAY(sa.Text()), nullable=False),
        _time("seen_at"),
        sa.PrimaryKeyConstraint("model", "model_version"),
    )
    _create_feedback()
    op.drop_index("predictions_finished", "predictions")
    op.create_index(
        "predictions_finished",
        "predictions",
        ["finished_at"],
        postgresql_include=["status", "model", "model_version"],
        postgresql_where=FINISHED,
    )


def downgrade() -> None:
    """Take back; feedback and the counts of removed predictions are lost."""
    op.drop_index("predictions_finished", "predictions")
    op.create_index("predictions_finished", "predictions", ["finished_at"], postgresql_where=FINISHED)
    for table in ("feedback", "model_labels", "prediction_counts"):
        op.drop_table(table)


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("author", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("is_private", sa.Boolean(), nullable=False),
        sa.Column("prediction_id", sa.Uuid(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("predicted_class", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("correct_class", sa.Text(), nullable=True),
        sa.Column("is_right", sa.Boolean(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("image_file_name", sa.Text(), nullable=False),
        sa.Column("image_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("predicted_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.ForeignKeyConstraint(["image_sha256"], ["images.sha256"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "feedback_once",
        "feedback",
        ["prediction_id", "author"],
        unique=True,
        postgresql_where=sa.text("prediction_id IS NOT NULL"),
    )
    op.create_index("feedback_author", "feedback", ["author", "id"])
    for name, column in (("feedback_user", "user_id"), ("feedback_image", "image_sha256")):
        op.create_index(name, "feedback", [column], postgresql_where=sa.text(f"{column} IS NOT NULL"))


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False)
