"""Nested lists of a JSON document to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = {int, float}


def to_array(nested: Sequence[Any]) -> NDArray[Any]:
    """Return numbers as an array of their shape; raises TypeError for any other element, ValueError for uneven lists.

    NumPy alone would take text as well, each element as wide as the longest: a small document, gigabytes of array.
    """
    level = nested
    while (kinds := set(map(type, level))) == {list}:
        level = list(chain.from_iterable(level))
    if not kinds <= NUMBERS | {list}:
        raise TypeError
    if list in kinds:
        raise ValueError
    return np.array(nested)
