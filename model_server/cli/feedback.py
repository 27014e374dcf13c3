"""``model-server feedback``."""

from __future__ import annotations

import click

from model_server import config, telemetry


@click.command()
@click.option("--database-url", help="PostgreSQL, as postgresql://user:password@host:5432/name.")
@click.option("--mode", help="open or accounts: whether predictions and feedback need a token.")
@click.option("--host", help="Address to listen on. Without: 127.0.0.1, beside the queue-proxy.")
@click.option("--port", type=int, help="HTTP port.")
def feedback(database_url: str | None, mode: str | None, host: str | None, port: int | None) -> None:
    """Serve accounts, logins and feedback, behind the queue-proxy, until SIGTERM.

    Each option stands for a MODEL_SERVER_… variable and wins over it; `model-server settings` lists them all.

    Example: model-server feedback --database-url postgresql://localhost/models
    """
    settings = config.load(
        config.FeedbackSettings, database_url=database_url, mode=mode, feedback_host=host, feedback_port=port
    )
    telemetry.configure_logging(settings)
    from model_server.feedback import server

    server.run(settings)
