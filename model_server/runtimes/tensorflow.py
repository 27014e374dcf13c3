"""Keras and SavedModel models by TensorFlow, on CPU or GPU: one session, larger batches."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server.config import RuntimeName
from model_server.errors import BundleError
from model_server.runtimes import Session, checked_dtype, checked_shape


class TensorFlowModel:
    """A traced function of a Keras file or a SavedModel's serving signature."""

    runtime: RuntimeName = "tensorflow"

    def __init__(self, artifact: Path, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            # TensorFlow takes the bound once a process, before its first operation: a trainer may have come before.
            with contextlib.suppress(RuntimeError):
                tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._tf = tf
        function, shape, dtype = _keras(artifact) if artifact.suffix == ".keras" else _saved_model(artifact)
        self.height, self.width = checked_shape(artifact, [-1 if side is None else side for side in shape])
        self.dtype = checked_dtype(artifact, dtype)
        signature = tf.TensorSpec((None, self.height, self.width, 3), dtype)
        self._function = tf.function(function, input_signature=[signature], autograph=False)
        self.classes = int(self._function.get_concrete_function().structured_outputs.shape[-1])

    def session(self) -> Session:
        """Return the traced function; TensorFlow spreads each batch over the cores."""

        def infer(batch: NDArray[Any]) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = self._function(self._tf.constant(batch)).numpy()
            return scores.astype(np.float32, copy=False)

        return infer


def _keras(artifact: Path) -> tuple[Any, list[int | None], str]:
    import keras

    model = keras.models.load_model(artifact, compile=False)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BundleError(
            f"{artifact} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is served."
        )
    return lambda batch: model(batch, training=False), list(model.inputs[0].shape), str(model.inputs[0].dtype)


def _saved_model(artifact: Path) -> tuple[Any, list[int | None], str]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(artifact))
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise BundleError(f"{artifact} has no signature serving_default.")
    arguments = signature.structured_input_signature[1]
    if len(arguments) != 1 or len(signature.structured_outputs) != 1:
        raise BundleError(f"{artifact}: the signature serving_default needs one input and one output.")
    ((argument, source),) = arguments.items()
    (output,) = signature.structured_outputs

    def infer(batch: Any, _keep_variables_alive: Any = loaded) -> Any:
        return signature(**{argument: batch})[output]

    return infer, source.shape.as_list(), source.dtype.name


def load(artifact: Path, threads: int) -> TensorFlowModel:
    """Load a ``.keras`` file or a SavedModel folder; ``threads`` bounds one operation on CPU."""
    return TensorFlowModel(artifact, threads)
