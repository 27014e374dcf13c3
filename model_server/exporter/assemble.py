"""From a model to a bundle: convert, measure against the original, evaluate, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from model_server import bundle as bundles
from model_server import classifier as classifiers
from model_server import runtimes
from model_server.bundle import Bundle, GoldenImage, InputSpec, Manifest
from model_server.classifier import Classifier
from model_server.errors import ExportError, shown
from model_server.exporter import accuracy, golden, parity, pictures
from model_server.exporter.accuracy import Confusion, confusion_of
from model_server.exporter.convert import Quantization, artifact_input, to_tflite
from model_server.exporter.parity import Pixels
from model_server.exporter.pictures import OWN_FILES, LabelledPictures
from model_server.exporter.progress import Progress
from model_server.exporter.scaling import Preparation
from model_server.exporter.source import ARTIFACT_NAMES, Source

ARTIFACT = ARTIFACT_NAMES["tflite"]
MOST_CALIBRATION_PICTURES = 200
"""More do not move the measured ranges; each costs one inference of the float model."""


@dataclass(frozen=True)
class Options:
    """What a bundle is to hold beside the model; ``threads`` bounds conversion and evaluation."""

    name: str
    labels: Sequence[str]
    version: str = "1"
    preparation: Preparation = field(default_factory=Preparation)
    quantize: Quantization = "none"
    calibration: Path | None = None
    evaluation: LabelledPictures | None = None
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    keep_original: bool = False
    trained_on: str | None = None
    licence: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class Report:
    """A finished bundle: its manifest, the artifact's size, and how far its scores are from the original's.

    ``difference`` is the largest of the golden pictures, for int8 the mean over golden and calibration ones;
    ``confusion`` counts [true class, predicted class] where the artifact was evaluated.
    """

    manifest: Manifest
    artifact_bytes: int
    difference: float
    confusion: Confusion | None


def assemble(folder: Path, source: Source, options: Options, progress: Progress) -> Report:
    """Fill ``folder`` with a bundle of ``source``; ExportError or BundleError says what was wrong.

    The golden scores are the original's. An int8 artifact, which cannot repeat them, is compared with the
    original in the mean and vouches for its own.
    """
    _check(source, options)
    progress("Loading the original", 0, 0)
    files = golden.draw(folder)
    original = _original(folder, source, options, files)
    calibration = _calibration(options, original.bundle.manifest.input)
    progress("Converting", 0, 0)
    artifact = _artifact(folder, source, original, options, [pixels for _, pixels in calibration])
    progress("Comparing with the original", 0, 0)
    compare = _compare_int8 if options.quantize == "int8" else _compare
    proof = compare(original, artifact, files, calibration)
    matrix, before = _evaluate(original, artifact, options, progress)
    if options.keep_original:
        source.copy_into(folder)
    measured = None if matrix is None else accuracy.summarise(matrix, options.labels, before)
    manifest = artifact.bundle.manifest.model_copy(
        update={"golden": proof.golden, "tolerance": proof.tolerance, "accuracy": measured}
    )
    manifest = bundles.write_manifest(folder, manifest)
    classifiers.load(folder, "auto", 1, OWN_FILES).check_golden()
    return Report(manifest, (folder / ARTIFACT).stat().st_size, proof.difference, matrix)


@dataclass(frozen=True)
class _Proof:
    golden: list[GoldenImage]
    tolerance: float
    difference: float


def _check(source: Source, options: Options) -> None:
    if source.kind == "tflite" and options.quantize != "none":
        raise ExportError("A .tflite file is copied as it is; --quantize needs the Keras file or the SavedModel.")
    if source.kind == "tflite" and options.keep_original:
        raise ExportError("A .tflite file is the artifact itself; there is no other original to keep.")
    if options.quantize == "int8" and options.calibration is None:
        raise ExportError("int8 needs calibration pictures, like those the model will see: --calibration DIR.")
    if options.quantize == "int8" and options.keep_original:
        raise ExportError("The int8 artifact takes bytes, the original floats: one bundle cannot describe both.")
    if not all(label.strip() for label in options.labels):
        raise ExportError("A label is blank; the file of labels names one class a line.")


def _original(folder: Path, source: Source, options: Options, files: Sequence[str]) -> Classifier:
    """Load the original as a classifier that gives probabilities."""
    model = source.load(options.threads)
    if model.classes != len(options.labels):
        raise ExportError(f"{len(options.labels):,} labels were given; {source.path} has {model.classes:,} scores.")
    (folder / bundles.LABELS).write_text("".join(f"{label}\n" for label in options.labels), encoding="utf-8")
    manifest = _describe(model, options)
    raw = _classifier(folder, manifest, model, options)
    scores = parity.scores_of(raw, parity.read_pixels(raw, folder, files, OWN_FILES))
    logits = parity.decide_logits(options.scores, scores, source.score_step())
    return _classifier(folder, manifest.model_copy(update={"logits": logits}), model, options)


def _describe(model: runtimes.LoadedModel, options: Options) -> Manifest:
    try:
        return Manifest(
            name=options.name,
            version=options.version,
            input=options.preparation.describe(model),
            artifact=ARTIFACT,
            runtime="litert",
            logits=False,
            tolerance=parity.TOLERANCES[options.quantize],
            trained_on=options.trained_on,
            licence=options.licence,
            quantization=options.quantize if model.dtype == "float32" else "int8",
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ExportError(f"{first['loc'][0]} {shown(first['input'])} is not allowed: {first['msg']}.") from None


def _classifier(folder: Path, manifest: Manifest, model: runtimes.LoadedModel, options: Options) -> Classifier:
    return Classifier(Bundle(folder, manifest, list(options.labels)), model, OWN_FILES)


def _calibration(options: Options, spec: InputSpec) -> list[tuple[str, Pixels]]:
    """Decode the calibration pictures, evenly chosen if there are many: name and pixels of each."""
    if options.calibration is None:
        return []
    names = pictures.list_names(options.calibration)
    chosen = names[:: -(-len(names) // MOST_CALIBRATION_PICTURES)]
    unlabelled = LabelledPictures(options.calibration, [(name, "") for name in chosen])
    return [(picture.name, pixels) for picture, pixels in pictures.decoded(unlabelled, spec)]


def _artifact(
    folder: Path, source: Source, original: Classifier, options: Options, calibration: Sequence[Pixels]
) -> Classifier:
    """Write the artifact and load it as the server will."""
    manifest = original.bundle.manifest
    if source.kind == "tflite":
        source.copy_into(folder)
    else:
        content = to_tflite(source, manifest.input, options.quantize, calibration)
        (folder / ARTIFACT).write_bytes(content)
    described = manifest.model_copy(update={"input": artifact_input(manifest.input, options.quantize)})
    return _classifier(folder, described, runtimes.load("litert", folder / ARTIFACT, options.threads), options)


def _compare(
    original: Classifier,
    artifact: Classifier,
    files: Sequence[str],
    _calibration: Sequence[tuple[str, Pixels]],
) -> _Proof:
    labels, folder = original.bundle.labels, original.bundle.path
    limit = parity.LIMITS[original.bundle.manifest.quantization]
    pixels = parity.read_pixels(original, folder, files, OWN_FILES)
    expected = parity.scores_of(original, pixels)
    error = parity.check_each(files, labels, expected, parity.scores_of(artifact, pixels), limit)
    tolerance = parity.golden_tolerance(original, pixels, expected, error)
    return _Proof(parity.golden_images(files, labels, expected), tolerance, error)


def _compare_int8(
    original: Classifier,
    artifact: Classifier,
    files: Sequence[str],
    calibration: Sequence[tuple[str, Pixels]],
) -> _Proof:
    labels, folder, limit = original.bundle.labels, original.bundle.path, parity.LIMITS["int8"]
    drawn = parity.read_pixels(original, folder, files, OWN_FILES)
    names = [*files, *(name for name, _ in calibration)]
    pixels = np.concatenate([drawn, np.stack([pixels for _, pixels in calibration])])
    got = parity.scores_of(artifact, pixels)
    difference = parity.check_mean(names, labels, parity.scores_of(original, pixels), got, limit)
    own = got[: len(files)]
    tolerance = parity.golden_tolerance(artifact, drawn, own, 0.0)
    return _Proof(parity.golden_images(files, labels, own), tolerance, difference)


def _evaluate(
    original: Classifier, artifact: Classifier, options: Options, progress: Progress
) -> tuple[Confusion | None, float | None]:
    """Return the artifact's confusion matrix, and the original's share of right answers if they may differ."""
    if options.evaluation is None:
        return None, None
    before = None
    if options.quantize != "none":
        what = "Evaluating the original"
        before = accuracy.top1(confusion_of(original, options.evaluation, options.threads, progress, what))
    what = "Evaluating the artifact"
    return confusion_of(artifact, options.evaluation, options.threads, progress, what), before
