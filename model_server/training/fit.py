"""Fitting the network: one-cycle schedule, label smoothing, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_server.exporter.progress import Progress
from model_server.training.augmentation import augment, scale
from model_server.training.dataset import Split
from model_server.training.network import build_network

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

BFLOAT16_COMPUTE_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Listener:
    """Who is told how a fit goes: of each step, and one line an epoch."""

    step: Progress
    epoch: Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one fit.

    The weight decay is decoupled from momentum (Keras applies it to the step, not to the gradient), so it
    stands for ten times as much as the same figure in recipes for coupled L2 at momentum 0.9.
    """

    epochs: int = 30
    batch_size: int = 250
    peak_learning_rate: float = 0.25
    warmup_fraction: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-3
    label_smoothing: float = 0.1
    seed: int = 1

    def in_words(self) -> str:
        """Return the recipe as a phrase."""
        return (
            f"{self.epochs} epochs in batches of {self.batch_size}, SGD with one cycle up to a learning rate of "
            f"{self.peak_learning_rate:g}, weight decay {self.weight_decay:g}, label smoothing "
            f"{self.label_smoothing:g}; shifted, mirrored and cut-out pictures"
        )


def one_cycle(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return the schedule of https://arxiv.org/abs/1708.07120: linear up, then linear down to zero."""
    import keras
    import tensorflow as tf

    total = recipe.epochs * steps_per_epoch
    warmup = recipe.warmup_fraction * total

    class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            step = tf.cast(step, tf.float32)
            rising, falling = step / warmup, (total - step) / (total - warmup)
            return recipe.peak_learning_rate * tf.maximum(tf.minimum(rising, falling), 0.0)

    return OneCycle()


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

    keras.utils.set_random_seed(recipe.seed)
    size, classes = train.images.shape[1], int(train.classes.max()) + 1
    batch = min(recipe.batch_size, len(train.images))
    steps = len(train.images) // batch
    keras.mixed_precision.set_global_policy(fast_precision())
    try:
        model = _compiled(size, classes, recipe, steps)
        model.fit(
            _training_batches(train, classes, batch),
            epochs=recipe.epochs,
            shuffle=False,
            validation_data=_test_batches(test, classes),
            validation_freq=5,
            verbose=0,
            callbacks=[
                keras.callbacks.BackupAndRestore(str(checkpoint), delete_checkpoint=False),
                _teller(recipe, steps, listener),
            ],
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")
    final = build_network(size, classes)
    final.set_weights(model.get_weights())
    return final


def _compiled(size: int, classes: int, recipe: Recipe, steps: int) -> keras.Model:
    import keras

    model = build_network(size, classes)
    optimizer = keras.optimizers.SGD(
        one_cycle(recipe, steps), momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def _training_batches(train: Split, classes: int, size: int) -> tf.data.Dataset:
    import tensorflow as tf

    hot = tf.eye(classes)
    return (
        tf.data.Dataset.from_tensor_slices((train.images, train.classes))
        .shuffle(len(train.images))
        .batch(size, drop_remainder=True)
        .map(lambda images, numbers: (augment(images), tf.gather(hot, numbers)), num_parallel_calls=1)
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


def _teller(recipe: Recipe, steps: int, listener: Listener) -> keras.callbacks.Callback:
    """Return the callback that tells ``listener``."""
    import keras

    class Teller(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.what, self.started = f"Epoch {epoch + 1} of {recipe.epochs}, step", time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            listener.step(self.what, batch + 1, steps)

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            seconds = time.monotonic() - self.started
            line = f"Epoch {epoch + 1} of {recipe.epochs}: loss {logs['loss']:.4f}, train {logs['accuracy']:.2%}"
            tested = f", test {logs['val_accuracy']:.2%}" if "val_accuracy" in logs else ""
            listener.epoch(f"{line}{tested}, {seconds:.0f} s")

    return Teller()
