"""``model-server rollout``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_server import config
from model_server.client import control
from model_server.client.control import RollBack, RollOut
from model_server.errors import SettingsError
from model_server.printable import printable

if TYPE_CHECKING:
    from model_server.cluster.rollout import Rollout

INTERRUPTED = 130


def target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where on Kubernetes a release is."""
    for option in (
        click.option("--context", help="On Kubernetes: context of the kubeconfig."),
        click.option("-n", "--namespace", help="On Kubernetes: namespace of the release."),
        click.option("--inference-service", metavar="NAME", help="On Kubernetes: InferenceService of the release."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Target:
    """Where a rollout is to be made: on a cluster where an InferenceService is named, else on this machine."""

    inference_service: str | None
    namespace: str | None
    context: str | None

    @property
    def is_cluster(self) -> bool:
        """Whether it is on Kubernetes; raises UsageError where only a part of it is named."""
        if not self.inference_service and (self.namespace or self.context):
            raise click.UsageError("--namespace and --context go with --inference-service.")
        return self.inference_service is not None

    def rollout(self, timeout_seconds: float) -> Rollout:
        """Connect; raises SettingsError where the client for Kubernetes is not installed."""
        try:
            from model_server.cluster.api import Cluster
            from model_server.cluster.rollout import Rollout
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"For a rollout on Kubernetes, {error.name} is needed: pip install 'model-server[kubernetes]'."
            ) from None
        return Rollout(Cluster(self.context, self.namespace), self.inference_service or "", say, timeout_seconds)


@click.command()
@click.argument("bundle", metavar="BUNDLE_OR_URI")
@click.option("--canary", type=click.IntRange(1, 99), metavar="PERCENT", help="For so many of the callers alone.")
@click.option("--shadow", type=click.IntRange(0, 1000), default=50, show_default=True, help="Recent images to try.")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100),
    default=0,
    show_default=True,
    metavar="PERCENT",
    help="Refuse the bundle where fewer of them keep their class.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the `model-server up` to ask.")
@click.option("--timeout", type=click.FloatRange(min=1), default=300, show_default=True, help="Seconds to load.")
@target
def rollout(
    bundle: str,
    canary: int | None,
    shadow: int,
    min_agreement: float,
    data_dir: Path | None,
    timeout: float,
    inference_service: str | None,
    namespace: str | None,
    context: str | None,
) -> None:
    """Put a bundle into service without a gap: load it beside the present model, try it, switch, drain the other.

    A bundle whose golden images come out differently takes no traffic. On this machine it is also tried on the images
    that were lately classified out of the queue, and the share that keep their class is printed. With
    --inference-service, a URI is put into an InferenceService of the Helm chart, which is watched until it is ready,
    and gets the model before back where it does not become so. Ctrl-C before the switch leaves all as it was. The
    exit status is 1 where the bundle is refused.

    Example: model-server rollout flowers-4 --canary 10

    Example: model-server rollout s3://models/flowers/4 --inference-service image-classifier -n vision
    """
    place = Target(inference_service, namespace, context)
    if place.is_cluster:
        if "://" not in bundle:
            raise click.UsageError("On Kubernetes the bundle is a URI, such as s3://models/flowers/4.")
        interruptible(lambda: place.rollout(timeout).roll_out(bundle, canary))
        return
    order = RollOut(
        bundle=bundle if "://" in bundle else str(Path(bundle).resolve()),
        canary=canary,
        shadow=shadow,
        min_agreement=min_agreement,
        timeout_seconds=timeout,
    )
    carry(order, data_dir)


def carry(order: RollOut | RollBack, data_dir: Path | None) -> None:
    """Have the system on this machine carry out an order."""
    folder = config.load(config.UpSettings, data_dir=data_dir).data_dir
    interruptible(lambda: control.order(folder, order, say))


def interruptible(work: Callable[[], str]) -> None:
    """Print what work has come to; Ctrl-C calls it off."""
    try:
        click.echo(printable(work()))
    except KeyboardInterrupt:
        click.echo("Called off. What was not switched yet stays as it was.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def say(sentence: str) -> None:
    """Show how far it is, where somebody watches."""
    if sys.stderr.isatty():
        click.echo(printable(sentence), err=True)
