"""``model-server inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from model_server.printable import printable, printable_json

if TYPE_CHECKING:
    from model_server.bundle import Accuracy, Bundle, InputSpec

CLASSES_SHOWN = 10


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--runtime",
    type=click.Choice(["auto", "litert", "openvino", "tensorflow"]),
    default="auto",
    show_default=True,
    help="What runs the golden images; auto: what the bundle was measured with.",
)
@click.option("--no-check", is_flag=True, help="Verify the files' hashes, but do not load the model.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect(bundle: Path, runtime: str, no_check: bool, as_json: bool) -> None:
    """Say what BUNDLE holds, verify its files and run its golden images; a broken one ends with status 1.

    Example: model-server inspect flowers
    """
    from model_server import bundle as bundles
    from model_server import classifier as classifiers
    from model_server.exporter.pictures import OWN_FILES

    if no_check and bundles.has_manifest(bundle):
        found, check = bundles.read(bundle), "not run"
    else:
        classifier = classifiers.load(bundle, runtime, 1, OWN_FILES)  # type: ignore[arg-type]
        found, check = classifier.bundle, "none to check"
        if found.manifest.golden and not no_check:
            classifier.check_golden()
            check = f"{len(found.manifest.golden)} images agree within {found.manifest.tolerance:g}"
    manifest = printable_json(found.manifest.model_dump_json(indent=2))
    click.echo(manifest if as_json else describe(found, check))


def describe(found: Bundle, check: str) -> str:
    """Return the readable description of a bundle; ``check`` is the outcome of the golden check."""
    manifest = found.manifest
    rows = [
        ("model", f"{manifest.name} {manifest.version}"),
        ("artifact", _artifact(found)),
        ("runtime", manifest.runtime),
        ("input", input_in_words(manifest.input)),
        ("scores", "logits, softmax is applied" if manifest.logits else "probabilities"),
        ("classes", _classes(found.labels)),
        ("trained on", manifest.trained_on or "not stated"),
        ("licence", manifest.licence or "not stated"),
        ("files", f"{len(manifest.sha256)} hashes verified" if found.proven else "no manifest, nothing to verify"),
        ("golden", check),
        ("accuracy", _accuracy(manifest.accuracy)),
    ]
    text = "\n".join(f"{name:<11} {printable(value)}" for name, value in rows)
    return "\n".join([text, *_per_class(manifest.accuracy)])


def input_in_words(spec: InputSpec) -> str:
    """Return how a picture becomes the model's input, as a phrase."""
    box = "the whole picture, stretched"
    if spec.resize == "crop":
        part = "" if spec.crop_fraction == 1 else f" at {spec.crop_fraction:.1%} of its side"
        box = f"the largest centred box{part}"
    scaled = [_channel(scale, offset) for scale, offset in zip(spec.scale, spec.offset, strict=True)]
    values = scaled[0] if len(set(scaled)) == 1 else f"per channel {', '.join(scaled)}"
    return f"{spec.height} x {spec.width} {spec.channels.upper()} {spec.dtype}, {values}; {box}, resized {spec.filter}"


def _channel(scale: float, offset: float) -> str:
    low, high = offset, 255 * scale + offset
    return f"{low:.4g} to {high:.4g}"


def _artifact(found: Bundle) -> str:
    path = found.path / found.manifest.artifact
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return f"{found.manifest.artifact}, {size:,} bytes, quantization {found.manifest.quantization}"


def _classes(labels: list[str]) -> str:
    more = f"; … ({len(labels):,} in all)" if len(labels) > CLASSES_SHOWN else ""
    return "; ".join(labels[:CLASSES_SHOWN]) + more


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "not measured"
    before = accuracy.before_quantization
    return f"{accuracy.top1:.2%} of {accuracy.images:,} images right" + (
        "" if before is None else f"; {before:.2%} before quantization"
    )


def _per_class(accuracy: Accuracy | None) -> list[str]:
    if accuracy is None or not accuracy.per_class:
        return []
    shares = [(printable(label), share) for label, share in accuracy.per_class.items()]
    width = max(len(label) for label, _ in shares)
    return ["", *(f"  {label:<{width}}  {share:7.2%}" for label, share in shares)]
