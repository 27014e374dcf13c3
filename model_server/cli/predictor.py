"""``model-server predictor``."""

from __future__ import annotations

from pathlib import Path

import click

from model_server import config, telemetry


@click.command()
@click.option(
    "--model-dir",
    "--model_dir",
    type=click.Path(path_type=Path),
    help="Model bundle, or a plain model's folder.",
)
@click.option("--model-name", "--model_name", help="Name in the URL.")
@click.option("--runtime", help="litert, openvino, tensorflow or auto.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", "--http_port", type=int, help="HTTP port.")
@click.option("--grpc-port", "--grpc_port", type=int, help="gRPC port; 0 turns gRPC off.")
def predictor(
    model_dir: Path | None,
    model_name: str | None,
    runtime: str | None,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
) -> None:
    """Serve one model over KServe V1, V2 and gRPC until SIGTERM.

    Each option stands for a MODEL_SERVER_… variable and wins over it; `model-server settings` lists them all.

    Example: model-server predictor --model-dir /mnt/models --port 8080
    """
    settings = config.load(
        config.PredictorSettings,
        model_dir=model_dir,
        model_name=model_name,
        runtime=runtime,
        predictor_host=host,
        predictor_port=port,
        predictor_grpc_port=grpc_port,
    )
    telemetry.configure_logging(settings)
    from model_server.predictor import workers

    prepared = workers.prepare(settings)
    # Imported after the worker processes are on their way: they load the model while the SDK is being imported.
    from model_server.predictor import server

    server.run(settings, prepared)
