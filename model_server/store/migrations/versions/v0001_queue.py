"""Predictions, images, callbacks and PgQueuer's queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from model_server.store.queue import postgres

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "images",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("image_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=True),
        sa.Column("parameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deadline", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("run", sa.Integer(), server_default="0", nullable=False),
        sa.Column("predictions", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("work", sa.LargeBinary(), nullable=True),
        sa.Column("leader", sa.Uuid(), nullable=True),
        sa.Column("followed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status_known"),
        sa.ForeignKeyConstraint(
            ["image_sha256"],
            ["images.sha256"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "predictions_deadline",
        "predictions",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("status IN ('queued', 'running')"),
    )
    op.create_index(
        "predictions_finished",
        "predictions",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "predictions_idempotency",
        "predictions",
        ["idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "predictions_image",
        "predictions",
        ["image_sha256"],
        unique=False,
        postgresql_where=sa.text("image_sha256 IS NOT NULL"),
    )
    op.create_index(
        "predictions_leader", "predictions", ["leader"], unique=False, postgresql_where=sa.text("leader IS NOT NULL")
    )
    op.create_index(
        "predictions_status",
        "predictions",
        ["status", "id"],
        unique=False,
        postgresql_where=sa.text("status <> 'succeeded'"),
    )
    op.create_index(
        "predictions_waiting",
        "predictions",
        ["priority", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND leader IS NULL"),
    )
    op.create_index(
        "predictions_work_done",
        "predictions",
        ["work", "finished_at"],
        unique=False,
        postgresql_where=sa.text("status = 'succeeded'"),
    )
    op.create_index(
        "predictions_work_in_flight",
        "predictions",
        ["work"],
        unique=True,
        postgresql_where=sa.text("status IN ('queued', 'running') AND leader IS NULL AND work IS NOT NULL"),
    )
    op.create_table(
        "callbacks",
        sa.Column("prediction_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("gave_up_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["prediction_id"], ["predictions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("prediction_id"),
    )
    op.create_index(
        "callbacks_due", "callbacks", ["due_at"], unique=False, postgresql_where=sa.text("gave_up_at IS NULL")
    )
    # Encoded images do not compress: trying costs more than writing them.
    op.execute("ALTER TABLE images ALTER COLUMN content SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE predictions SET (fillfactor = 80)")
    for statement in postgres.install_statements():
        op.execute(statement)


def downgrade() -> None:
    """Undo."""
    for statement in postgres.uninstall_statements():
        op.execute(statement)
    for table in ("callbacks", "predictions", "images"):
        op.drop_table(table)
