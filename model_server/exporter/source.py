"""The model that is to be exported: a Keras file, a SavedModel folder or a ``.tflite`` file."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_server import runtimes
from model_server.config import RuntimeName
from model_server.errors import ExportError

ARTIFACT_NAMES = {"keras": "model.keras", "saved_model": "saved_model", "tflite": "model.tflite"}


@dataclass(frozen=True)
class Source:
    """A model on disk, and its kind."""

    path: Path
    kind: str

    @property
    def runtime(self) -> RuntimeName:
        """The runtime whose scores count as the original's."""
        return "litert" if self.kind == "tflite" else "tensorflow"

    def load(self, threads: int) -> runtimes.LoadedModel:
        """Load the original for ``threads`` concurrent sessions; raises BundleError."""
        return runtimes.load(self.runtime, self.path, threads)

    def copy_into(self, folder: Path) -> None:
        """Copy the original into a bundle's folder, under the name that its runtime looks for."""
        target = folder / ARTIFACT_NAMES[self.kind]
        if self.path.is_dir():
            shutil.copytree(self.path, target)
        else:
            shutil.copyfile(self.path, target)

    def score_step(self) -> float:
        """Return the distance of neighbouring scores where they are quantised, else 0."""
        if self.kind != "tflite":
            return 0.0
        from ai_edge_litert.interpreter import Interpreter

        return float(Interpreter(model_path=str(self.path)).get_output_details()[0]["quantization"][0])


def find(path: Path) -> Source:
    """Tell a model's kind by its name or content; raises ExportError that says what is read."""
    if not path.exists():
        raise ExportError(f"{path} does not exist.")
    if (path / "saved_model.pb").is_file():
        return Source(path, "saved_model")
    if path.is_file() and path.suffix in {".keras", ".tflite"}:
        return Source(path, path.suffix[1:])
    raise ExportError(f"{path} is no model that is read: a .keras file, a SavedModel folder or a .tflite file.")


def require_tensorflow() -> None:
    """Raise ExportError that says what to install where TensorFlow is missing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ExportError("This needs TensorFlow, which is not installed: pip install 'model-server[tensorflow]'.")


def traceable(source: Source) -> tuple[Any, Any]:
    """Return the model as a function of one tensor [N, height, width, 3], and the owner of its variables.

    ``source`` is a Keras file or a SavedModel that the tensorflow runtime has loaded before.
    """
    import tensorflow as tf

    if source.kind == "keras":
        import keras

        model = keras.models.load_model(source.path, compile=False)
        # The converter finds the variables of a tf.Module; those of a Keras 3 model it would leave out.
        owner = tf.Module()
        owner.variables_of_model = [variable.value for variable in model.variables]
        return lambda batch: model(batch, training=False), owner
    loaded = tf.saved_model.load(str(source.path))
    signature = loaded.signatures["serving_default"]
    (argument,) = signature.structured_input_signature[1]
    (output,) = signature.structured_outputs
    return lambda batch: signature(**{argument: batch})[output], loaded
