"""``model-server rollback``."""

from __future__ import annotations

from pathlib import Path

import click

from model_server.cli import rollout
from model_server.client.control import RollBack


@click.command()
@rollout.target
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the `model-server up` to ask.")
@click.option("--timeout", type=click.FloatRange(min=1), default=300, show_default=True, help="Seconds to load.")
def rollback(
    data_dir: Path | None, timeout: float, inference_service: str | None, namespace: str | None, context: str | None
) -> None:
    """Undo the last rollout: end the canary, or else put the bundle before back into service.

    Example: model-server rollback
    """
    place = rollout.Target(inference_service, namespace, context)
    if place.is_cluster:
        rollout.interruptible(lambda: place.rollout(timeout).roll_back())
    else:
        rollout.carry(RollBack(timeout_seconds=timeout), data_dir)
