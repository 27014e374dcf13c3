"""Hyperparameters of a fit, and its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

SECOND_CYCLE_EPOCHS, SECOND_CYCLE_PEAK = 4 / 9, 0.6
"""The second cycle's share of the epochs, and its peak beside the first one's."""


@dataclass(frozen=True)
class Cycle:
    """One rise and fall of the learning rate; ``cutmix`` says whether its pictures are mixed."""

    epochs: int
    peak_learning_rate: float
    warmup_fraction: float
    cutmix: bool


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one fit: a cycle from scratch, then a lower one with CutMix against overfitting.

    The weight decay is decoupled from momentum (Keras applies it to the step, not to the gradient), so it
    stands for ten times as much as the same figure in recipes for coupled L2 at momentum 0.9.
    """

    epochs: int = 54
    batch_size: int = 250
    peak_learning_rate: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-3
    label_smoothing: float = 0.1
    seed: int = 1

    def cycles(self) -> list[Cycle]:
        """Return the cycles, without one that is left no epoch."""
        second = round(self.epochs * SECOND_CYCLE_EPOCHS)
        both = [
            Cycle(self.epochs - second, self.peak_learning_rate, 0.2, cutmix=False),
            Cycle(second, self.peak_learning_rate * SECOND_CYCLE_PEAK, 0.1, cutmix=True),
        ]
        return [cycle for cycle in both if cycle.epochs]

    def in_words(self) -> str:
        """Return the recipe as a phrase."""
        cycles = " and ".join(
            f"{cycle.epochs} epochs{' with CutMix' if cycle.cutmix else ''} up to a learning rate of "
            f"{cycle.peak_learning_rate:g}"
            for cycle in self.cycles()
        )
        return (
            f"shifted, mirrored and cut-out pictures in batches of {self.batch_size}; SGD in one-cycle schedules, "
            f"{cycles}; weight decay {self.weight_decay:g}, label smoothing {self.label_smoothing:g}"
        )


def one_cycle(cycle: Cycle, steps_per_epoch: int) -> Any:
    """Return the schedule of https://arxiv.org/abs/1708.07120: linear up, then linear down to zero."""
    import keras
    import tensorflow as tf

    total = cycle.epochs * steps_per_epoch
    warmup = cycle.warmup_fraction * total

    class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            step = tf.cast(step, tf.float32)
            rising, falling = step / warmup, (total - step) / (total - warmup)
            return cycle.peak_learning_rate * tf.maximum(tf.minimum(rising, falling), 0.0)

    return OneCycle()
