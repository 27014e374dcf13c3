"""``model-server up``."""

from __future__ import annotations

from pathlib import Path

import click

from model_server import config, telemetry


@click.command()
@click.option("--host", help="Address of page and API. Without: 127.0.0.1, this machine alone.")
@click.option("--port", type=int, help="HTTP port of page and API.")
@click.option("--mode", help="open or accounts: whether predictions and feedback need a token.")
@click.option("--feedback-port", type=int, help="HTTP port of the feedback service behind it.")
@click.option("--predictor-port", type=int, help="HTTP port of the predictor behind it.")
@click.option("--grpc-port", type=int, help="gRPC port of the predictor; 0 turns gRPC off.")
@click.option("--model-dir", type=click.Path(path_type=Path), help="Model bundle, or a plain model's folder.")
@click.option("--model-name", help="Name in the URL.")
@click.option("--runtime", help="litert, openvino, tensorflow or auto.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder that keeps the database between runs.")
def up(
    host: str | None,
    port: int | None,
    mode: str | None,
    feedback_port: int | None,
    predictor_port: int | None,
    grpc_port: int | None,
    model_dir: Path | None,
    model_name: str | None,
    runtime: str | None,
    data_dir: Path | None,
) -> None:
    """Run the whole system on this machine: PostgreSQL, predictor, queue, accounts and web page. Ctrl-C ends it.

    Each option stands for a MODEL_SERVER_… variable and wins over it; `model-server settings` lists them all.

    Example: model-server up --port 8000 --model-dir my-bundle
    """
    settings = config.load(
        config.UpSettings,
        queue_proxy_host=host,
        queue_proxy_port=port,
        mode=mode,
        feedback_port=feedback_port,
        predictor_port=predictor_port,
        predictor_grpc_port=grpc_port,
        data_dir=data_dir,
    )
    predictor = config.load(config.PredictorSettings, model_dir=model_dir, model_name=model_name, runtime=runtime)
    queue_proxy = config.load(config.QueueProxySettings)
    config.load(config.FeedbackSettings)
    telemetry.configure_logging(settings)
    from model_server.up import system

    system.run(settings, predictor, queue_proxy)
