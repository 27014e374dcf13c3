"""``model-server export``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from model_server.errors import ExportError
from model_server.printable import printable

if TYPE_CHECKING:
    from model_server.bundle import Manifest
    from model_server.exporter import Options, Preparation, Report, Source

MIB = 1024 * 1024
Triple = tuple[float, float, float]


@click.command()
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the new bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there already.")
@click.option("--name", help="Name in the URL. Default: the source's.")
@click.option("--version", default="1", show_default=True, help="Version that replies carry.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="File with one class a line, in the order of the scores.",
)
@click.option("--architecture", help="Instead of SOURCE: a model of keras.applications, such as MobileNetV2.")
@click.option(
    "--weights", type=click.Choice(["imagenet", "none"]), default="imagenet", show_default=True,
    help="Of --architecture: ImageNet's, downloaded, or random ones.",
)  # fmt: skip
@click.option(
    "--scaling", type=click.Choice(["tf", "torch", "caffe", "raw", "unit"]),
    help="What the model takes: tf -1..1 (default), torch ImageNet mean and deviation, "
    "caffe BGR less ImageNet mean, raw 0..255, unit 0..1.",
)  # fmt: skip
@click.option("--scale", type=float, nargs=3, help="Instead of --scaling: factor of each channel's 0..255.")
@click.option("--offset", type=float, nargs=3, help="Added to each channel after --scale.  [default: 0 0 0]")
@click.option("--bgr", is_flag=True, help="With --scale: blue comes first.")
@click.option(
    "--resize", type=click.Choice(["crop", "stretch"]), default="crop", show_default=True,
    help="Take the largest centred box of the input's aspect, or press the whole picture into it.",
)  # fmt: skip
@click.option("--crop-fraction", type=float, help="Share of that box's side to keep.  [default: 0.875]")
@click.option("--filter", "filter_", type=click.Choice(["bilinear", "bicubic"]), default="bilinear", show_default=True)
@click.option(
    "--scores", type=click.Choice(["auto", "logits", "probabilities"]), default="auto", show_default=True,
    help="Whether scores need a softmax; auto: where they are negative or do not sum to 1.",
)  # fmt: skip
@click.option("--quantize", type=click.Choice(["none", "float16", "int8"]), default="none", show_default=True)
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder or zip of typical pictures, for int8.")
@click.option("--evaluate", type=click.Path(path_type=Path), help="Folder or zip <class>/<picture>: measure accuracy.")
@click.option("--keep-original", is_flag=True, help="Put the original beside, for the runtime tensorflow.")
@click.option("--trained-on", help="What the model was trained on, in words.")
@click.option("--licence", help="Licence of the weights.")
def export(source: Path | None, output: Path, **options: Any) -> None:
    """Turn SOURCE, a .keras file, a SavedModel folder or a .tflite file, into a bundle that can prove itself.

    The artifact must agree with the original on golden pictures, or nothing is written.

    Example: model-server export flowers.keras --labels flowers.txt --scaling unit --output flowers
    """
    from model_server import exporter
    from model_server.exporter import progress

    preparation = _preparation(options)
    with (
        progress.on_stderr() as say,
        tempfile.TemporaryDirectory() as scratch,
        exporter.new_folder(output, force=options["force"]) as folder,
    ):
        model, labels = _source(source, Path(scratch), options)
        report = exporter.assemble(folder, model, _options(model, labels, preparation, options), say)
    click.echo(printable(f"{output}: {summary(report)}"))


def summary(report: Report) -> str:
    """Say in one line what a new bundle is and how well it agrees with its original."""
    manifest = report.manifest
    parts = [
        f"{manifest.name} {manifest.version}",
        f"{manifest.artifact} {report.artifact_bytes / MIB:.2f} MiB, quantization {manifest.quantization}",
        f"scores within {report.difference:.1e} of the original's",
    ]
    return "; ".join([*parts, *accuracy_in_words(manifest)])


def accuracy_in_words(manifest: Manifest) -> list[str]:
    """Say the accuracy in one phrase, or nothing where none was measured."""
    measured = manifest.accuracy
    if measured is None:
        return []
    before = "" if measured.before_quantization is None else f", {measured.before_quantization:.2%} before quantization"
    return [f"{measured.top1:.2%} of {measured.images:,} pictures right{before}"]


def _source(path: Path | None, scratch: Path, options: dict[str, Any]) -> tuple[Source, list[str]]:
    from model_server import bundle, exporter

    architecture, file = options["architecture"], options["labels"]
    if (path is None) == (architecture is None):
        raise ExportError("Either SOURCE or --architecture is needed, not both.")
    labels = bundle.read_labels(file) if file else None
    if path is None:
        return _architecture(architecture, options["weights"], labels, scratch)
    if labels is None:
        raise ExportError("--labels FILE is needed: one class a line, in the order of the model's scores.")
    return exporter.find(path), labels


def _architecture(
    name: str, weights: Literal["imagenet", "none"], labels: list[str] | None, scratch: Path
) -> tuple[Source, list[str]]:
    from model_server import exporter
    from model_server.exporter import architectures

    classes = len(labels) if labels else architectures.IMAGENET_CLASSES
    architectures.build(name, weights, classes, scratch / f"{name}.keras")
    if labels is None and weights == "imagenet":
        labels = architectures.imagenet_labels()
    return exporter.find(scratch / f"{name}.keras"), labels or [f"class-{number}" for number in range(classes)]


def _options(model: Source, labels: list[str], preparation: Preparation, options: dict[str, Any]) -> Options:
    from model_server import exporter, runtimes
    from model_server.exporter import pictures

    evaluate = options["evaluate"]
    return exporter.Options(
        name=options["name"] or model.path.stem,
        labels=labels,
        version=options["version"],
        preparation=preparation,
        quantize=options["quantize"],
        calibration=options["calibration"],
        evaluation=pictures.by_folder(evaluate) if evaluate else None,
        scores=options["scores"],
        keep_original=options["keep_original"],
        trained_on=options["trained_on"],
        licence=options["licence"],
        threads=runtimes.cores(),
    )


def _preparation(options: dict[str, Any]) -> Preparation:
    from model_server import exporter

    scale: Triple | None = options["scale"]
    stated = [name for name in ("scaling", "scale", "architecture") if options[name]]
    if len(stated) > 1:
        raise ExportError(f"--{stated[0]} and --{stated[1]} both say how pixels are scaled; give one.")
    if scale is None and (options["offset"] or options["bgr"]):
        raise ExportError("--offset and --bgr go with --scale.")
    if options["resize"] == "stretch" and options["crop_fraction"] is not None:
        raise ExportError("--crop-fraction goes with --resize crop.")
    fraction = 0.875 if options["crop_fraction"] is None else options["crop_fraction"]
    return exporter.Preparation(_scaling(options), options["resize"], fraction, options["filter_"])


def _scaling(options: dict[str, Any]) -> Any:
    from model_server import exporter
    from model_server.exporter import architectures

    if options["architecture"]:
        return exporter.SCALINGS[architectures.family_of(options["architecture"]).scaling]
    if options["scale"]:
        return exporter.Scaling(options["scale"], options["offset"] or (0.0,) * 3, "bgr" if options["bgr"] else "rgb")
    return exporter.SCALINGS[options["scaling"]] if options["scaling"] else None
