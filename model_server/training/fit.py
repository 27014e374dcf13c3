"""Fitting the network, cycle after cycle, with a checkpoint an epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_server.exporter.progress import Progress
from model_server.training.augmentation import augment, mix, scale
from model_server.training.dataset import Split
from model_server.training.network import build_network
from model_server.training.recipe import Cycle, Recipe, one_cycle

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

BFLOAT16_COMPUTE_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Listener:
    """Who is told how a fit goes: of each step, and one line an epoch."""

    step: Progress
    epoch: Callable[[str], None]


def fast_precision() -> str:
    """Return ``mixed_bfloat16`` where the GPU or processor multiplies bfloat16 natively, else ``float32``."""
    import tensorflow as tf

    graphics = tf.config.list_physical_devices("GPU")
    if graphics:
        details = [tf.config.experimental.get_device_details(device) for device in graphics]
        able = all(detail.get("compute_capability", (0, 0)) >= BFLOAT16_COMPUTE_CAPABILITY for detail in details)
    else:
        description = Path("/proc/cpuinfo")
        flags = description.read_text() if description.exists() else ""
        able = "avx512_bf16" in flags or "amx_bf16" in flags
    return "mixed_bfloat16" if able else "float32"


def fit(train: Split, test: Split, recipe: Recipe, checkpoint: Path, listener: Listener) -> keras.Model:
    """Train from scratch, or go on from the last epoch in the folder ``checkpoint``; return a float32 model.

    Every class has a training picture. At most ``len(train.images)`` pictures make a batch.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    keras.mixed_precision.set_global_policy(fast_precision())
    try:
        weights, before = None, 0
        for number, cycle in enumerate(recipe.cycles()):
            keras.utils.set_random_seed(recipe.seed + number)
            tell = _teller(recipe, before, listener)
            weights = _run(cycle, recipe, (train, test), weights, [_backup(checkpoint / str(number)), tell])
            before += cycle.epochs
    finally:
        keras.mixed_precision.set_global_policy("float32")
    final = build_network(*_shape(train))
    final.set_weights(weights)
    return final


def _run(
    cycle: Cycle, recipe: Recipe, splits: tuple[Split, Split], weights: Any, callbacks: list[keras.callbacks.Callback]
) -> Any:
    """Train one cycle from ``weights``, or from random ones; return the weights it ends with."""
    train, test = splits
    batch = min(recipe.batch_size, len(train.images))
    model = build_network(*_shape(train))
    if weights is not None:
        model.set_weights(weights)
    _compile(model, cycle, recipe, len(train.images) // batch)
    model.fit(
        _training_batches(train, batch, cutmix=cycle.cutmix),
        epochs=cycle.epochs,
        shuffle=False,
        validation_data=_test_batches(test, _shape(train)[1]),
        validation_freq=5,
        verbose=0,
        callbacks=callbacks,
    )
    return model.get_weights()


def _shape(train: Split) -> tuple[int, int]:
    """Return the pictures' side and the number of classes."""
    return train.images.shape[1], int(train.classes.max()) + 1


def _compile(model: keras.Model, cycle: Cycle, recipe: Recipe, steps: int) -> None:
    import keras

    optimizer = keras.optimizers.SGD(
        one_cycle(cycle, steps), momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"])


def _training_batches(train: Split, size: int, *, cutmix: bool) -> tf.data.Dataset:
    import tensorflow as tf

    hot = tf.eye(_shape(train)[1])

    def prepare(images: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures, targets = augment(images), tf.gather(hot, numbers)
        return mix(pictures, targets) if cutmix else (pictures, targets)

    return (
        tf.data.Dataset.from_tensor_slices((train.images, train.classes))
        .shuffle(len(train.images))
        .batch(size, drop_remainder=True)
        .map(prepare, num_parallel_calls=1)
        .prefetch(2)
    )


def _test_batches(test: Split, classes: int) -> tf.data.Dataset:
    import tensorflow as tf

    hot = tf.eye(classes)
    return (
        tf.data.Dataset.from_tensor_slices((test.images, test.classes))
        .batch(500)
        .map(lambda images, numbers: (scale(images), tf.gather(hot, numbers)))
    )


def _backup(folder: Path) -> keras.callbacks.Callback:
    import keras

    # Kept when the cycle ends: the next one begins where this left off, also after an interruption.
    return keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)


def _teller(recipe: Recipe, before: int, listener: Listener) -> keras.callbacks.Callback:
    """Return the callback that tells ``listener``; ``before`` epochs belong to earlier cycles."""
    import keras

    class Teller(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.what, self.started = f"Epoch {before + epoch + 1} of {recipe.epochs}", time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            listener.step(f"{self.what}, step", batch + 1, self.params["steps"])

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
            seconds = time.monotonic() - self.started
            line = f"{self.what}: loss {logs['loss']:.4f}, train {logs['accuracy']:.2%}"
            tested = f", test {logs['val_accuracy']:.2%}" if "val_accuracy" in logs else ""
            listener.epoch(f"{line}{tested}, {seconds:.0f} s")

    return Teller()
