"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model_server.exporter.accuracy import Confusion, top1

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES_WRITTEN = 20
"""Beyond this many classes a cell is too small for its count."""

INCHES_A_CLASS, FEWEST_INCHES, MOST_INCHES = 0.62, 5.0, 16.0
LIGHT_TEXT_FROM = 0.5
DOTS_PER_INCH = 120


def draw(counts: Confusion, labels: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG: one row a true class, coloured by the share of each answer, with counts where they fit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(INCHES_A_CLASS * len(labels), FEWEST_INCHES, MOST_INCHES))
    figure = Figure(figsize=(side + 2.2, side + 1.2), layout="constrained")
    axes = figure.add_subplot()
    # The square root brings out the few wrong answers beside the many right ones.
    shown = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    _name_classes(axes, labels, side)
    if len(labels) <= MOST_CLASSES_WRITTEN:
        _write_cells(axes, counts, shares)
    axes.set_title(f"{title}\n{top1(counts):.2%} of {counts.sum():,} pictures right")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=30, label="share of the true class")
    ticks = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.set_ticks(np.sqrt(ticks).tolist(), labels=[f"{tick:.0%}" for tick in ticks])
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def _name_classes(axes: Axes, labels: Sequence[str], side: float) -> None:
    size = float(np.clip(72 * side / len(labels) * 0.8, 4, 10))
    angle = 45 if len(labels) <= MOST_CLASSES_WRITTEN else 90
    axes.set_xticks(
        range(len(labels)), labels, rotation=angle, ha="right", va="center", rotation_mode="anchor", fontsize=size
    )
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def _write_cells(axes: Axes, counts: Confusion, shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts):
        text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        colour = "white" if np.sqrt(shares[row, column]) > LIGHT_TEXT_FROM else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
