"""Fitting the network: augmentation, one-cycle schedule, checkpoints."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_server.training.dataset import Split
from model_server.training.network import build_network

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


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


def augment(images: tf.Tensor, *, seed: int) -> tf.Tensor:
    """Shift, mirror and cut a square out of each picture.

    uint8 [N, S, S, 3] in, float32 [N, S, S, 3] in -1..1 out. Shifts by up to S/8 with reflected borders,
    mirrors one in two, blanks a square of S/4 (cutout, https://arxiv.org/abs/1708.04552).
    """
    import tensorflow as tf

    count, size = tf.shape(images)[0], images.shape[1]
    reach, hole = size // 8, size // 4
    span = tf.range(size)

    padded = tf.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "REFLECT")
    shift = tf.random.uniform((2, count, 1), 0, 2 * reach + 1, tf.int32)
    cropped = tf.gather(padded, shift[0] + span, axis=1, batch_dims=1)
    cropped = tf.gather(cropped, shift[1] + span, axis=2, batch_dims=1)
    mirrored = tf.random.uniform((count, 1, 1, 1)) < 0.5
    scaled = tf.cast(tf.where(mirrored, cropped[:, :, ::-1], cropped), tf.float32) / 127.5 - 1.0

    corner = tf.random.uniform((2, count, 1), -hole + 1, size, tf.int32)
    inside = (span >= corner) & (span < corner + hole)
    blank = inside[0][:, :, None] & inside[1][:, None, :]
    return tf.where(blank[..., None], 0.0, scaled)


def one_cycle(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return the epoch-fraction schedule of https://arxiv.org/abs/1708.07120: linear up, linear down to zero."""
    import keras
    import tensorflow as tf

    total = recipe.epochs * steps_per_epoch
    warmup = recipe.warmup_fraction * total

    @keras.saving.register_keras_serializable("model_server")
    class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            step = tf.cast(step, tf.float32)
            rising, falling = step / warmup, (total - step) / (total - warmup)
            return recipe.peak_learning_rate * tf.maximum(tf.minimum(rising, falling), 0.0)

        def get_config(self) -> dict[str, Any]:
            return {}

    return OneCycle()


def fast_precision() -> str:
    """Return ``mixed_bfloat16`` where the processor multiplies bfloat16 natively, else ``float32``."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "mixed_bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def fit(train: Split, test: Split, classes: int, recipe: Recipe, workspace: Path) -> keras.Model:
    """Train from scratch, or go on from the last finished epoch in ``workspace``; return a float32 model."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(recipe.seed)
    size = train.images.shape[1]
    keras.mixed_precision.set_global_policy(fast_precision())
    model = build_network(size, classes)
    steps = len(train.images) // recipe.batch_size
    optimizer = keras.optimizers.SGD(
        one_cycle(recipe, steps),
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
    )
    hot = tf.eye(classes)
    data = (
        tf.data.Dataset.from_tensor_slices((train.images, train.classes))
        .shuffle(len(train.images))
        .batch(recipe.batch_size, drop_remainder=True)
        .map(lambda x, y: (augment(x, seed=0), tf.gather(hot, y)), num_parallel_calls=1)
        .prefetch(2)
    )
    check = (
        tf.data.Dataset.from_tensor_slices((test.images, test.classes))
        .batch(500)
        .map(lambda x, y: (tf.cast(x, tf.float32) / 127.5 - 1.0, tf.gather(hot, y)))
    )
    model.fit(
        data,
        epochs=recipe.epochs,
        validation_data=check,
        validation_freq=5,
        verbose=1 if sys.stderr.isatty() else 2,
        callbacks=[keras.callbacks.BackupAndRestore(str(workspace / "checkpoint"))],
    )
    keras.mixed_precision.set_global_policy("float32")
    final = build_network(size, classes)
    final.set_weights(model.get_weights())
    return final
