"""Keras and SavedModel to TFLite, as they are, with float16 weights, or in int8 throughout."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_server.bundle import InputSpec
from model_server.errors import ExportError
from model_server.exporter.scaling import SCALINGS
from model_server.exporter.source import Source, traceable

if TYPE_CHECKING:
    import tensorflow as tf

Quantization = Literal["none", "float16", "int8"]


def artifact_input(spec: InputSpec, quantize: Quantization) -> InputSpec:
    """Return what the artifact takes: raw RGB bytes if it is int8, whose first layer is the scaling."""
    if quantize != "int8":
        return spec
    raw = SCALINGS["raw"]
    return spec.model_copy(
        update={"dtype": "uint8", "channels": raw.channels, "scale": raw.scale, "offset": raw.offset}
    )


def to_tflite(
    source: Source, spec: InputSpec, quantize: Quantization, calibration: Sequence[NDArray[np.uint8]]
) -> bytes:
    """Convert a model that takes ``spec``; ``calibration``: pictures uint8 [height, width, 3], for int8.

    Raises ExportError where TensorFlow cannot express the model in TFLite.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    function, owner = traceable(source)
    if quantize == "int8":
        function = _from_pixels(function, spec)
    signature = tf.TensorSpec((1, spec.height, spec.width, 3), spec.dtype)
    with _quiet_native_log():
        concrete = tf.function(function, input_signature=[signature], autograph=False).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
        _quantize(converter, quantize, calibration)
        try:
            content: bytes = converter.convert()
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ExportError(f"TensorFlow cannot convert {source.path} to TFLite: {first_line}") from error
    if quantize == "int8":
        _check_input(content)
    return content


def _from_pixels(function: Any, spec: InputSpec) -> Any:
    """Put a 1x1 convolution before the model that scales, shifts and orders the channels of pixels 0..255.

    Quantised per output channel it is exact, where one step for all channels could not hold three scales.
    """
    import tensorflow as tf

    order = [0, 1, 2] if spec.channels == "rgb" else [2, 1, 0]
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, order, [0, 1, 2]] = spec.scale
    offset = np.asarray(spec.offset, np.float32)
    return lambda pixels: function(tf.nn.bias_add(tf.nn.conv2d(pixels, kernel, 1, "SAME"), offset))


def _quantize(
    converter: tf.lite.TFLiteConverter, quantize: Quantization, calibration: Sequence[NDArray[np.uint8]]
) -> None:
    import tensorflow as tf

    if quantize == "none":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
        return
    converter.representative_dataset = lambda: _full_range(calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.float32


def _full_range(pictures: Sequence[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.float32]]]:
    """Yield inputs that each hold a black and a white corner, so that the input's range is 0..255 exactly."""
    for picture in pictures:
        pixels = picture[np.newaxis].astype(np.float32)
        pixels[0, 0, 0], pixels[0, -1, -1] = 0.0, 255.0
        yield [pixels]


def _check_input(content: bytes) -> None:
    from ai_edge_litert.interpreter import Interpreter

    source = Interpreter(model_content=content).get_input_details()[0]
    step, zero = source["quantization"]
    if source["dtype"] is not np.uint8 or zero != 0 or not np.isclose(step, 1.0):
        raise ExportError(
            f"The quantised input is {np.dtype(source['dtype']).name} with step {step:g} and zero {zero}, "
            "not uint8 whose byte is the pixel."
        )


@contextlib.contextmanager
def _quiet_native_log() -> Iterator[None]:
    """Keep from the terminal what the converter's C++ code writes to file descriptor 2."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
