"""Random changes to training pictures that leave their class as it is."""

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


def scale(images: tf.Tensor) -> tf.Tensor:
    """Turn uint8 0..255 into float32 -1..1."""
    import tensorflow as tf

    return tf.cast(images, tf.float32) / 127.5 - 1.0
