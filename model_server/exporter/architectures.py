"""The architectures of ``keras.applications``, with the input that each was trained on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model_server.errors import ExportError, shown
from model_server.exporter.scaling import ScalingName
from model_server.exporter.source import require_tensorflow

if TYPE_CHECKING:
    import keras

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Family:
    """Architectures whose names match; ``side`` is stated where Keras leaves the input size open."""

    begin: str
    end: str
    scaling: ScalingName
    side: int | None = None


# The first that matches: https://keras.io/api/applications/, "preprocess_input" of each.
FAMILIES = (
    Family("ConvNeXt", "", "raw"),
    Family("DenseNet", "", "torch"),
    Family("EfficientNet", "", "raw"),
    Family("Inception", "", "tf"),
    Family("MobileNetV3", "", "raw", side=224),
    Family("MobileNet", "", "tf"),
    Family("NASNet", "", "tf"),
    Family("ResNet", "V2", "tf"),
    Family("ResNet", "", "caffe"),
    Family("VGG", "", "caffe"),
    Family("Xception", "", "tf"),
)


def names() -> list[str]:
    """Return the architectures that can be exported."""
    applications = _applications()
    return sorted(name for name in vars(applications) if any(name.startswith(family.begin) for family in FAMILIES))


def family_of(name: str) -> Family:
    """Return the family of an architecture; raises ExportError that lists them all if there is none."""
    if name not in names():
        raise ExportError(f"There is no architecture {shown(name)}; there are {', '.join(names())}.")
    return next(family for family in FAMILIES if name.startswith(family.begin) and name.endswith(family.end))


def build(name: str, weights: Literal["imagenet", "none"], classes: int, path: Path) -> None:
    """Write the architecture as a ``.keras`` file, with ImageNet's weights or random ones.

    Raises ExportError where the weights cannot be downloaded or have another number of classes.
    """
    family = family_of(name)
    if weights == "imagenet" and classes != IMAGENET_CLASSES:
        raise ExportError(f"ImageNet's weights tell {IMAGENET_CLASSES:,} classes apart; {classes:,} labels were given.")
    shape = (family.side, family.side, 3) if family.side else None
    architecture = getattr(_applications(), name)
    try:
        model: keras.Model = architecture(
            weights=None if weights == "none" else weights, input_shape=shape, classes=classes
        )
    except Exception as error:
        if weights == "none":
            raise
        raise ExportError(f"The ImageNet weights of {name} cannot be downloaded: {_first_line(error)}") from error
    model.save(path)


def imagenet_labels() -> list[str]:
    """Return ImageNet's 1,000 classes in the order of the scores; ExportError where they cannot be had."""
    import numpy as np

    descending = np.arange(IMAGENET_CLASSES, 0, -1, dtype=np.float32)[np.newaxis]
    try:
        ((*ranked,),) = _applications().imagenet_utils.decode_predictions(descending, top=IMAGENET_CLASSES)
    except Exception as error:
        raise ExportError(
            f"ImageNet's class names cannot be downloaded ({_first_line(error)}); give them as --labels FILE."
        ) from error
    return [name.replace("_", " ") for _wordnet_id, name, _score in ranked]


def _applications() -> keras.applications:
    require_tensorflow()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    keras.config.disable_interactive_logging()  # or it reports downloads on stdout
    return keras.applications


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
