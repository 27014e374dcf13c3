"""TFLite and SavedModel models on CPU by OpenVINO: one stream a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from model_server.config import RuntimeName
from model_server.errors import BundleError
from model_server.runtimes import Session, checked_dtype, checked_shape


class OpenVINOModel:
    """A model compiled for this processor, in float32: bfloat16 would miss the golden scores."""

    runtime: RuntimeName = "openvino"

    def __init__(self, artifact: Path, threads: int) -> None:
        core = openvino.Core()
        model = _float_scores(core.read_model(artifact), artifact)
        shape = model.input(0).partial_shape
        sides = [1, *(dimension.get_length() if dimension.is_static else -1 for dimension in list(shape)[1:])]
        self.height, self.width = checked_shape(artifact, sides)
        model.reshape(sides)
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "f32",
            # Each process would pin its threads to the first cores: workers that are processes would share one.
            "ENABLE_CPU_PINNING": "NO",
        }
        self._compiled = core.compile_model(model, "CPU", options)
        self.dtype = checked_dtype(artifact, self._compiled.input(0).get_element_type().to_dtype().name)
        self.classes = int(self._compiled.output(0).shape[-1])

    def session(self) -> Session:
        """Return a function with an inference request of its own."""
        request = self._compiled.create_infer_request()

        def infer(batch: NDArray[Any]) -> NDArray[np.float32]:
            scores = np.empty((len(batch), self.classes), np.float32)
            for row, image in enumerate(batch):
                request.infer([image[np.newaxis]], share_inputs=True)
                scores[row] = request.get_output_tensor(0).data[0]
            return scores

        return infer


def _float_scores(model: openvino.Model, artifact: Path) -> openvino.Model:
    """Return ``model`` with the output before its final quantisation, where it has one."""
    result = model.output(0).node.input(0).get_source_output()
    if result.get_element_type() == openvino.Type.f32:
        return model
    quantize = result.get_node().input(0).get_source_output().get_node()
    if quantize.get_type_name() != "FakeQuantize":
        raise BundleError(
            f"{artifact}: OpenVINO gives scores of type {result.get_element_type()} that it cannot scale."
        )
    return openvino.Model([quantize.input(0).get_source_output()], model.get_parameters())


def load(artifact: Path, threads: int) -> OpenVINOModel:
    """Compile a ``.tflite`` file or a SavedModel folder for ``threads`` streams."""
    return OpenVINOModel(artifact, threads)
