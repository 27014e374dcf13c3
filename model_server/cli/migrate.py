"""``model-server migrate``."""

from __future__ import annotations

import click

from model_server import config


@click.command()
@click.option("--database-url", help="PostgreSQL, as postgresql://user:password@host:5432/name.")
def migrate(database_url: str | None) -> None:
    """Bring the database's tables up to this version; safe to run from many pods at once.

    Example: model-server migrate --database-url postgresql://localhost/models
    """
    settings = config.load(config.QueueProxySettings, database_url=database_url)
    from model_server.store import migrate as migrations
    from model_server.store.database import url_of

    revision = migrations.migrate(url_of(settings))
    click.echo(f"The database is at revision {revision}.")
