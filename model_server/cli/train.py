"""``model-server train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_server.cli.export import summary
from model_server.printable import printable

if TYPE_CHECKING:
    from model_server.training.trainer import Training


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the new bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there already.")
@click.option("--name", help="Name in the URL. Default: the output folder's.")
@click.option("--version", default="1", show_default=True, help="Version that replies carry.")
@click.option("--size", type=click.IntRange(16, 512), default=32, show_default=True, help="Side of the model's input.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training pictures.  [default: 54]")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures in one step.  [default: 250]")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Peak of the first cycle.  [default: 0.25]"
)
@click.option("--seed", type=int, help="Of weights, order and augmentation.  [default: 1]")
@click.option("--quantize", type=click.Choice(["none", "float16"]), default="float16", show_default=True)
@click.option(
    "--mirror",
    is_flag=True,
    help="Average the scores of a picture and its mirror image: more right answers, twice the inference.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder of checkpoints and model.keras.  [default: OUTPUT.work]"
)
@click.option("--restart", is_flag=True, help="Discard the fit in the work folder.")
@click.option(
    "--feedback",
    type=click.Path(path_type=Path),
    help="Export of /feedback/export: what users labelled is trained on too, but for copies of test pictures.",
)
@click.option(
    "--feedback-repeat",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often each of its pictures counts: few among many are else hardly seen.",
)
@click.option("--trained-on", help="Name of the data set for the bundle. Default: the file's name and what it holds.")
@click.option("--licence", help="Licence of the weights.")
def train(data: Path, output: Path, **options: Any) -> None:
    """Train a network on DATA, a folder or zip of train/<class>/* and test/<class>/*, and make a bundle of it.

    An interrupted training goes on where it stopped. The bundle is measured on all test pictures.

    Example: model-server train flowers.zip --output flowers --size 64 --feedback export.tar
    """
    from model_server.exporter import progress
    from model_server.training import trainer
    from model_server.training.fit import Listener

    with progress.on_stderr() as say:
        listener = Listener(say, lambda line: click.echo(printable(line), err=True))
        report = trainer.train(_training(data, output, options), output, listener, force=options["force"])
    click.echo(printable(f"{output}: {summary(report)}"))


def _training(data: Path, output: Path, options: dict[str, Any]) -> Training:
    from model_server import runtimes
    from model_server.training.recipe import Recipe
    from model_server.training.trainer import Training

    output = output.absolute()
    chosen = {
        "epochs": options["epochs"],
        "batch_size": options["batch_size"],
        "peak_learning_rate": options["learning_rate"],
        "seed": options["seed"],
    }
    return Training(
        data=data,
        work=options["work"] or output.with_name(f"{output.name}.work"),
        name=options["name"] or output.name,
        version=options["version"],
        size=options["size"],
        recipe=replace(Recipe(), **{name: value for name, value in chosen.items() if value is not None}),
        quantize=options["quantize"],
        mirror=options["mirror"],
        feedback=options["feedback"],
        feedback_repeat=options["feedback_repeat"],
        trained_on=options["trained_on"],
        licence=options["licence"],
        restart=options["restart"],
        threads=runtimes.cores(),
    )
