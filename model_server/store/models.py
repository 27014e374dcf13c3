"""The tables. Alembic's migrations create them; PgQueuer's own tables stand beside them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Row,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
STATUSES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED)
UNFINISHED = (QUEUED, RUNNING)

_UNFINISHED = text("status IN ('queued', 'running')")


class Base(DeclarativeBase):
    """Holds the metadata of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        str: Text,
        bytes: LargeBinary,
    }


class Image(Base):
    """An encoded image, once, however many predictions are about it.

    ``location`` and ``size``, in bytes, are those of its object, where it is kept elsewhere.
    """

    __tablename__ = "images"
    __table_args__ = (
        CheckConstraint("content IS NOT NULL OR location IS NOT NULL AND size IS NOT NULL", name="kept_somewhere"),
        Index("images_created", "created_at"),
    )

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    media_type: Mapped[str]
    content: Mapped[bytes | None]
    location: Mapped[str | None]
    size: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Prediction(Base):
    """A request that was accepted, and what became of it.

    ``run`` is the fencing token: a worker may write only while it is still the one that it was given. A row whose
    ``leader`` is set waits for the result of that identical one and has no queue entry of its own. ``user_id`` is who
    asked, None for somebody unknown; it outlives the user, so that what a removed one has left becomes nobody else's.
    """

    __tablename__ = "predictions"
    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status_known"),
        Index("predictions_status", "status", "id", postgresql_where=text("status <> 'succeeded'")),
        Index("predictions_waiting", "priority", "id", postgresql_where=text("status = 'queued' AND leader IS NULL")),
        Index("predictions_deadline", "deadline", postgresql_where=_UNFINISHED),
        # With what the report counts by, so that counting a million reads this index alone.
        Index(
            "predictions_finished",
            "finished_at",
            postgresql_include=["status", "model", "model_version"],
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
        Index("predictions_run", "finished_at", postgresql_where=text("status = 'succeeded' AND attempts > 0")),
        Index("predictions_leader", "leader", postgresql_where=text("leader IS NOT NULL")),
        Index("predictions_image", "image_sha256", postgresql_where=text("image_sha256 IS NOT NULL")),
        Index(
            "predictions_work_in_flight",
            "work",
            unique=True,
            postgresql_where=text("status IN ('queued', 'running') AND leader IS NULL AND work IS NOT NULL"),
        ),
        Index("predictions_work_done", "work", "finished_at", postgresql_where=text("status = 'succeeded'")),
        Index(
            "predictions_idempotency",
            "idempotency_key",
            "user_id",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
            postgresql_nulls_not_distinct=True,
        ),
        Index("predictions_user", "user_id", "id", postgresql_where=text("user_id IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None]
    status: Mapped[str]
    model: Mapped[str]
    model_version: Mapped[str | None]
    image_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("images.sha256"))
    document: Mapped[bytes | None]
    parameters: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deadline: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    run: Mapped[int] = mapped_column(server_default="0")
    predictions: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    work: Mapped[bytes | None]
    leader: Mapped[UUID | None]
    followed: Mapped[bool] = mapped_column(server_default=text("false"))
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[bytes | None]
    callback_url: Mapped[str | None]
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    forwarded: Mapped[bool] = mapped_column(server_default=text("false"))


class Callback(Base):
    """A finished prediction that a receiver has not confirmed yet: its own callback, or the sink of all results."""

    __tablename__ = "callbacks"
    __table_args__ = (
        CheckConstraint("receiver IN ('callback', 'sink')", name="receiver_known"),
        Index("callbacks_due", "receiver", "due_at", postgresql_where=text("gave_up_at IS NULL")),
    )

    prediction_id: Mapped[UUID] = mapped_column(ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True)
    receiver: Mapped[str] = mapped_column(primary_key=True, server_default="callback")
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default="0")
    gave_up_at: Mapped[datetime | None]
    last_error: Mapped[str | None]


class Outbox(Base):
    """A prediction that RabbitMQ is yet to be told of, or to be told of again; ``priority`` is its urgency 0..7."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_order", "priority", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    prediction_id: Mapped[UUID]
    priority: Mapped[int] = mapped_column(SmallInteger)
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())


class User(Base):
    """Somebody with an account. ``email_key`` is the e-mail without regard to case, which is theirs alone."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    password_set_at: Mapped[datetime] = mapped_column(server_default=func.now())
    is_admin: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A key that a program shows instead of a token, as its hash; ``hint`` is its beginning, to know it by."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("api_keys_user", "user_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    hint: Mapped[str]
    sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]


class SigningKey(Base):
    """The one key that tokens are signed with, where no setting gives it."""

    __tablename__ = "signing_keys"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    secret: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PredictionCount(Base):
    """How many predictions of a day (UTC, by their end) succeeded and were removed after their retention."""

    __tablename__ = "prediction_counts"

    model: Mapped[str] = mapped_column(primary_key=True)
    model_version: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    predictions: Mapped[int] = mapped_column(BigInteger)


class ModelLabels(Base):
    """The classes of one model version, as the predictor named them: known also while it sleeps."""

    __tablename__ = "model_labels"

    model: Mapped[str] = mapped_column(primary_key=True)
    model_version: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text))
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Feedback(Base):
    """What somebody said about a prediction. It repeats what it is about, and so outlives it.

    ``author`` tells authors apart, also nameless ones; ``user_id`` is null for those and after a user is deleted.
    ``is_right`` is null where there is a comment and no verdict; ``correct_class`` is null for that, and for "wrong" by
    somebody who does not know better. ``is_private`` hides it from all but its author and admins.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        Index(
            "feedback_once",
            "prediction_id",
            "author",
            unique=True,
            postgresql_where=text("prediction_id IS NOT NULL"),
        ),
        Index("feedback_author", "author", "id"),
        Index("feedback_user", "user_id", postgresql_where=text("user_id IS NOT NULL")),
        Index("feedback_image", "image_sha256", postgresql_where=text("image_sha256 IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    author: Mapped[UUID]
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    is_private: Mapped[bool]
    prediction_id: Mapped[UUID | None]
    model: Mapped[str]
    model_version: Mapped[str]
    predicted_class: Mapped[str]
    score: Mapped[float]
    correct_class: Mapped[str | None]
    is_right: Mapped[bool | None]
    comment: Mapped[str]
    image_file_name: Mapped[str]
    image_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("images.sha256"))
    predicted_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiCalls(Base):
    """Calls of one route in one window of a second, minute, hour or day."""

    __tablename__ = "api_calls"

    api: Mapped[str] = mapped_column(primary_key=True)
    unit: Mapped[str] = mapped_column(primary_key=True)
    begins_at: Mapped[datetime] = mapped_column(primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger)


USAGE = Table(
    "usage",
    Base.metadata,
    Column("user_id", Uuid),
    Column("day", Date, nullable=False),
    Column("requests", BigInteger, server_default=text("0"), nullable=False),
    Column("images", BigInteger, server_default=text("0"), nullable=False),
    Column("compute_seconds", Double, server_default=text("0"), nullable=False),
    Column("bytes", BigInteger, server_default=text("0"), nullable=False),
    UniqueConstraint("user_id", "day", name="usage_user_day", postgresql_nulls_not_distinct=True),
    Index("usage_day", "day"),
)
"""What a user took on a day, UTC; None: those unknown together. No model of its own: NULL is no primary key.

It outlives the user, for whoever has to account for it.
"""


class Quota(Base):
    """What one user may take; NULL: what everybody may."""

    __tablename__ = "quotas"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    requests_per_second: Mapped[float | None] = mapped_column(Double)
    burst: Mapped[int | None]
    images_per_day: Mapped[int | None] = mapped_column(BigInteger)
    set_at: Mapped[datetime] = mapped_column(server_default=func.now())


def _table(model: type[Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)  # noqa: S101 - each of our models is one table
    return table


IMAGES, PREDICTIONS, CALLBACKS = _table(Image), _table(Prediction), _table(Callback)
USERS, API_KEYS, SIGNING_KEYS = _table(User), _table(ApiKey), _table(SigningKey)
FEEDBACK, MODEL_LABELS = _table(Feedback), _table(ModelLabels)
API_CALLS, QUOTAS = _table(ApiCalls), _table(Quota)
RESOURCE_COLUMNS = tuple(column for column in PREDICTIONS.c if column.name != "document")
"""What a reply is made of: all but the request itself."""
Record: TypeAlias = Row[*tuple[Any, ...]]
"""A row as a query returns it, its columns by name."""
