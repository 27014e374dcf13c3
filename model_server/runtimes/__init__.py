"""Inference runtimes behind one small interface; each is imported only when it is chosen."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from model_server.config import InputDtype, RuntimeName
from model_server.errors import BundleError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
Session = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Input [N, height, width, 3] in the model's dtype to float32 [N, classes]; used by one thread at a time."""


BATCHING: frozenset[RuntimeName] = frozenset({"tensorflow"})
"""Runtimes in which one session with many images beats many sessions with one image each."""


class LoadedModel(Protocol):
    """An artifact in memory."""

    runtime: RuntimeName
    height: int
    width: int
    dtype: InputDtype
    classes: int

    def session(self) -> Session:
        """Return a function that infers, independent of every other session."""
        ...


def load(runtime: RuntimeName, artifact: Path, threads: int) -> LoadedModel:
    """Load ``artifact`` for ``threads`` concurrent sessions; raises BundleError where that fails."""
    try:
        module = importlib.import_module(f"model_server.runtimes.{runtime}")
    except ModuleNotFoundError as error:
        extra = "predictor" if runtime == "litert" else runtime
        raise BundleError(
            f"The runtime {runtime} needs {error.name}, which is not installed: pip install 'model-server[{extra}]'."
        ) from None
    try:
        model: LoadedModel = module.load(artifact, threads)
    except BundleError:
        raise
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise BundleError(f"The runtime {runtime} cannot load {artifact}: {first_line}") from error
    return model


def cores() -> int:
    """Return how many cores this process may use: its affinity, and its control group's quota where it has one."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return available
    return available if quota == "max" else max(1, min(available, round(int(quota) / int(period))))


def checked_dtype(artifact: Path, dtype: str) -> InputDtype:
    """Return the type of an input; BundleError for one that pictures are not made into."""
    known = get_args(InputDtype)
    if dtype not in known:
        raise BundleError(f"{artifact} takes input of type {dtype}; {', '.join(known)} are served.")
    return cast("InputDtype", dtype)


def checked_shape(artifact: Path, shape: list[int]) -> tuple[int, int]:
    """Return height and width of an input shape [N, height, width, 3]; BundleError for any other."""
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < 1:
        raise BundleError(f"{artifact} takes input of shape {shape}; an image model takes [N, height, width, 3].")
    return shape[1], shape[2]
