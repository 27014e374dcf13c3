"""``model-server queue-proxy``."""

from __future__ import annotations

import click

from model_server import config, telemetry


@click.command()
@click.option("--database-url", help="PostgreSQL, as postgresql://user:password@host:5432/name.")
@click.option("--predictor-url", help="Where predictions are made, such as http://127.0.0.1:8080.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="HTTP port.")
@click.option("--no-dispatch", is_flag=True, help="Serve requests, and leave the queue to other processes.")
@click.option("--dispatch-only", is_flag=True, help="Work through the queue, and serve health and metrics alone.")
def queue_proxy(
    database_url: str | None,
    predictor_url: str | None,
    host: str | None,
    port: int | None,
    no_dispatch: bool,
    dispatch_only: bool,
) -> None:
    """Serve page and API, pass requests to the predictor, queue them, and work through the queue until SIGTERM.

    Each option stands for a MODEL_SERVER_… variable and wins over it; `model-server settings` lists them all.

    Example: model-server queue-proxy --database-url postgresql://localhost/models
    """
    if no_dispatch and dispatch_only:
        raise click.UsageError("--no-dispatch and --dispatch-only exclude each other.")
    settings = config.load(
        config.QueueProxySettings,
        database_url=database_url,
        predictor_url=predictor_url,
        queue_proxy_host=host,
        queue_proxy_port=port,
    )
    telemetry.configure_logging(settings)
    from model_server.queue_proxy import server

    server.run(settings, serve=not dispatch_only, dispatch=not no_dispatch)
