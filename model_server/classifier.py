"""A loaded bundle that classifies: decode, scale, infer, rank. One for predictor, exporter, trainer and client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_server import bundle as bundles
from model_server import image, runtimes
from model_server.bundle import Bundle, GoldenImage, InputSpec
from model_server.config import PredictorSettings, RuntimeName
from model_server.errors import BundleError, InvalidInput, PayloadTooLarge
from model_server.schema import Prediction, ScoredClass

Picture = bytes | NDArray[Any]
"""One image: encoded, or RGB [H, W, 3] with 0..255."""

DEFAULT_MODEL = Path(__file__).parent / "default_model"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the protocols need to know of a model that is in memory, be it in this process or in others."""

    bundle: Bundle
    runtime: RuntimeName

    @property
    def labels(self) -> list[str]:
        """Its classes, in the order of the scores."""
        return self.bundle.labels


class Classifier:
    """A bundle, its model in memory, and the limits on what it decodes."""

    def __init__(self, bundle: Bundle, model: runtimes.LoadedModel, limits: image.Limits) -> None:
        spec = bundle.manifest.input
        if (model.height, model.width, model.dtype) != (spec.height, spec.width, spec.dtype):
            raise BundleError(
                f"{bundle.path}: the manifest says input {spec.height} x {spec.width} {spec.dtype}, "
                f"the artifact takes {model.height} x {model.width} {model.dtype}."
            )
        if model.classes != len(bundle.labels):
            raise BundleError(f"{bundle.path}: {len(bundle.labels)} labels for {model.classes} scores.")
        self.bundle = bundle
        self.model = model
        self.limits = limits

    @property
    def served(self) -> ServedModel:
        """What there is to know of it elsewhere."""
        return ServedModel(self.bundle, self.model.runtime)

    def prepare(self, picture: Picture) -> NDArray[Any]:
        """Return the model's input [height, width, 3]; raises InvalidInput or PayloadTooLarge."""
        return self.scaled(image.pixels(picture, self.bundle.manifest.input, self.limits))

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the model's input of decoded pixels [..., height, width, 3]."""
        return image.scale(pixels, self.bundle.manifest.input)

    def session(self) -> runtimes.Session:
        """Return a function from input [N, height, width, 3] to probabilities float32 [N, classes]."""
        infer = self.model.session()
        if not self.bundle.manifest.logits:
            return infer
        return lambda batch: softmax(infer(batch))

    def check_golden(self) -> None:
        """Raise BundleError that names the first golden image whose class or scores differ from the manifest's.

        Two classes may change places where both scores stay within the tolerance: that is a tie.
        """
        tolerance = self.bundle.manifest.tolerance
        infer = self.session()
        for golden in self.bundle.manifest.golden:
            scores = infer(self._prepare_golden(golden)[np.newaxis])[0]
            index = int(scores.argmax())
            error = float(np.abs(scores - np.asarray(golden.scores, np.float32)).max())
            if not error <= tolerance or scores[index] - scores[golden.index] > 2 * tolerance:
                raise BundleError(
                    f"Golden image {golden.file} differs: expected {golden.label} {max(golden.scores):.4f}, got "
                    f"{self.bundle.labels[index]} {scores[index]:.4f}; largest difference {error:.2g}, "
                    f"allowed {tolerance:.2g}."
                )

    def _prepare_golden(self, golden: GoldenImage) -> NDArray[Any]:
        labels = self.bundle.labels
        if len(golden.scores) != len(labels) or golden.label not in labels[golden.index : golden.index + 1]:
            raise BundleError(f"Golden image {golden.file}: its label or scores do not fit the {len(labels)} labels.")
        try:
            return self.prepare(bundles.read_file(self.bundle.path, golden.file, bundles.MOST_GOLDEN))
        except (BundleError, InvalidInput, PayloadTooLarge) as error:
            raise BundleError(f"Golden image {golden.file} cannot be read: {error}") from None


def rank(labels: Sequence[str], scores: NDArray[np.float32], top_k: int) -> Prediction:
    """Name the ``top_k`` best classes of one row of scores [classes]; of equal ones the first comes first."""
    candidates = np.arange(len(scores))
    if top_k < len(scores):
        candidates = np.flatnonzero(scores >= np.partition(scores, -top_k)[-top_k])
    best = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]].tolist()
    top: list[ScoredClass] = [{"label": labels[i], "index": i, "score": float(scores[i])} for i in best]
    return {**top[0], "top": top}


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities [N, classes] of logits [N, classes]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def load(path: Path, runtime: RuntimeName | Literal["auto"], threads: int, limits: image.Limits) -> Classifier:
    """Load a bundle, or a plain model with ``labels.txt``; raises BundleError. The golden check is the caller's."""
    if bundles.has_manifest(path):
        bundle = bundles.read(path)
        chosen = bundle.manifest.runtime if runtime == "auto" else runtime
        return Classifier(bundle, runtimes.load(chosen, bundle.artifact_for(chosen), threads), limits)
    artifact, natural = bundles.find_artifact(path)
    chosen = natural if runtime == "auto" else runtime
    if artifact not in bundles.ARTIFACTS[chosen]:
        raise BundleError(f"The runtime {chosen} cannot load {artifact}.")
    version = bundles.plain_version(path, artifact)
    model = runtimes.load(chosen, bundles.artifact_path(path, artifact), threads)
    return Classifier(bundles.read_plain(path, version, artifact, chosen, plain_input(model)), model, limits)


def load_checked(settings: PredictorSettings, threads: int) -> Classifier:
    """Load what ``settings`` name, for ``threads`` sessions, and run its golden check; raises BundleError."""
    loaded = load(settings.model_dir or DEFAULT_MODEL, settings.runtime, threads, limits_of(settings))
    loaded.check_golden()
    return loaded


def limits_of(settings: PredictorSettings) -> image.Limits:
    """Return what one picture may be and cost."""
    return image.Limits(
        settings.max_image_bytes,
        settings.max_image_pixels,
        settings.max_image_cpu_seconds,
        settings.max_image_memory_bytes,
    )


def runtime_of(path: Path, runtime: RuntimeName | Literal["auto"]) -> RuntimeName:
    """Return the runtime that will load a bundle or plain folder, without loading it; raises BundleError."""
    if runtime != "auto":
        return runtime
    if bundles.has_manifest(path):
        return bundles.read_manifest(path).runtime
    return bundles.find_artifact(path)[1]


def name_of(path: Path) -> str:
    """Return the name that a bundle or plain folder will have, without proving or loading it."""
    try:
        return bundles.read_manifest(path).name
    except BundleError:
        return bundles.plain_name(path)


def plain_input(model: runtimes.LoadedModel) -> InputSpec:
    """Assume what a model without a manifest takes: -1..1 for float32, raw bytes for uint8, bytes - 128 for int8."""
    if model.dtype == "float32":
        return InputSpec(height=model.height, width=model.width)
    offset = -128.0 if model.dtype == "int8" else 0.0
    return InputSpec(
        height=model.height,
        width=model.width,
        dtype=model.dtype,
        scale=(1.0,) * 3,
        offset=(offset,) * 3,
    )


def evaluate(
    classifier: Classifier, pictures: Sequence[bytes], progress: Callable[[int], None] = lambda _done: None
) -> NDArray[np.float32]:
    """Return the scores float32 [N, classes] of encoded pictures, by one session."""
    infer = classifier.session()
    rows = []
    for done, picture in enumerate(pictures, start=1):
        rows.append(infer(classifier.prepare(picture)[np.newaxis])[0])
        progress(done)
    return np.stack(rows)
