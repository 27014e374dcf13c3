"""Alembic's entry: migrate over the connection that holds the lock."""

from __future__ import annotations

from alembic import context

from model_server.store.models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
