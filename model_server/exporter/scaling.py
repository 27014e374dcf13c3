"""The ways in which published models want their pixels, as input descriptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from model_server.bundle import InputSpec, PerChannel
from model_server.errors import ExportError
from model_server.runtimes import LoadedModel

ScalingName = Literal["tf", "torch", "caffe", "raw", "unit"]


@dataclass(frozen=True)
class Scaling:
    """value = pixel (0..255) * scale + offset, per channel in the order of ``channels``."""

    scale: PerChannel
    offset: PerChannel
    channels: Literal["rgb", "bgr"] = "rgb"


# Means and deviations of ImageNet, RGB in 0..1 (torch) and BGR in 0..255 (caffe), as in
# https://github.com/keras-team/keras/blob/master/keras/src/applications/imagenet_utils.py
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)

SCALINGS: dict[ScalingName, Scaling] = {
    "tf": Scaling((1 / 127.5,) * 3, (-1.0,) * 3),
    "torch": Scaling(
        tuple(1 / (255 * deviation) for deviation in TORCH_DEVIATION),  # type: ignore[arg-type]
        tuple(-mean / deviation for mean, deviation in zip(TORCH_MEAN, TORCH_DEVIATION, strict=True)),  # type: ignore[arg-type]
    ),
    "caffe": Scaling((1.0,) * 3, tuple(-mean for mean in CAFFE_MEAN), "bgr"),  # type: ignore[arg-type]
    "raw": Scaling((1.0,) * 3, (0.0,) * 3),
    "unit": Scaling((1 / 255,) * 3, (0.0,) * 3),
}
"""-1..1; ImageNet mean and deviation; BGR less ImageNet mean; 0..255; 0..1."""

BYTES: dict[str, Scaling] = {"uint8": SCALINGS["raw"], "int8": Scaling((1.0,) * 3, (-128.0,) * 3)}
"""What a quantised input takes: the picture's bytes as they are."""


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a model's input, but for what the model itself says: its size and type."""

    scaling: Scaling | None = None
    resize: Literal["crop", "stretch"] = "crop"
    crop_fraction: float = 0.875
    filter: Literal["bilinear", "bicubic"] = field(default="bilinear")

    def describe(self, model: LoadedModel) -> InputSpec:
        """Return the input description of ``model``; a float model of unstated scaling takes -1..1.

        Raises ExportError where a quantised input is to be scaled, or the input is of another type.
        """
        if model.dtype != "float32" and model.dtype not in BYTES:
            raise ExportError(f"The model's input is {model.dtype}; float32, uint8 and int8 are served.")
        if self.scaling and model.dtype in BYTES and self.scaling != BYTES[model.dtype]:
            raise ExportError(f"The model's input is {model.dtype}: it takes a picture's bytes, without scaling.")
        scaling = self.scaling or BYTES.get(model.dtype, SCALINGS["tf"])
        return InputSpec(
            height=model.height,
            width=model.width,
            dtype=model.dtype,
            channels=scaling.channels,
            scale=scaling.scale,
            offset=scaling.offset,
            resize=self.resize,
            crop_fraction=self.crop_fraction,
            filter=self.filter,
        )
