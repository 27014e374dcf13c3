"""Random changes to training pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def augment(images: tf.Tensor) -> tf.Tensor:
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
    scaled = scale(tf.where(mirrored, cropped[:, :, ::-1], cropped))

    corner = tf.random.uniform((2, count, 1), -hole + 1, size, tf.int32)
    inside = (span >= corner) & (span < corner + hole)
    blank = inside[0][:, :, None] & inside[1][:, None, :]
    return tf.where(blank[..., None], 0.0, scaled)


def mix(pictures: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Lay a box of another picture over one in two, and share the target by area (https://arxiv.org/abs/1905.04899).

    Pictures float32 [N, S, S, 3] and targets float32 [N, classes] that sum to 1, both in and out.
    """
    import tensorflow as tf

    count, size = tf.shape(pictures)[0], pictures.shape[1]
    span = tf.range(size)
    side = size * tf.sqrt(tf.random.uniform((count, 1)))
    mixed = tf.random.uniform((count, 1)) < 0.5
    side = tf.cast(tf.where(mixed, side, 0.0), tf.int32)

    corner = tf.random.uniform((2, count, 1), 0, size, tf.int32) - side // 2
    inside = (span >= corner) & (span < corner + side)
    box = inside[0][:, :, None] & inside[1][:, None, :]
    share = tf.reduce_mean(tf.cast(box, tf.float32), axis=[1, 2])[:, None]
    others, their_targets = tf.roll(pictures, 1, axis=0), tf.roll(targets, 1, axis=0)
    return tf.where(box[..., None], others, pictures), targets * (1 - share) + their_targets * share


def scale(images: tf.Tensor) -> tf.Tensor:
    """Turn uint8 0..255 into float32 -1..1."""
    import tensorflow as tf

    return tf.cast(images, tf.float32) / 127.5 - 1.0
