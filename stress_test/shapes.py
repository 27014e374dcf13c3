"""How many users there are when: steps, spike, ramp, soak.

Each is a function of the elapsed share of the test, 0..1, to a share of the users.
"""

from __future__ import annotations

from collections.abc import Callable

STEPS = 4
SPIKE_BASE = 0.1
SPIKE = (0.4, 0.6)
SOAK_RAMP = 0.05


def steps(elapsed: float) -> float:
    """Four equal steps up: where does latency leave its plateau?"""
    return min(STEPS, int(elapsed * STEPS) + 1) / STEPS


def spike(elapsed: float) -> float:
    """A tenth of the users, all of them in the middle fifth: what is refused, and how long does it take to recover?"""
    return 1.0 if SPIKE[0] <= elapsed < SPIKE[1] else SPIKE_BASE


def ramp(elapsed: float) -> float:
    """Up in a straight line: at what load does the first objective break?"""
    return elapsed


def soak(elapsed: float) -> float:
    """All users nearly all the time: do memory, descriptors and latency stay where they are?"""
    return min(1.0, elapsed / SOAK_RAMP)


FUNCTIONS: dict[str, Callable[[float], float]] = {"steps": steps, "spike": spike, "ramp": ramp, "soak": soak}


def users_at(function: Callable[[float], float], seconds: float, most: int, length: float) -> int | None:
    """Return the users at a time, at least 1; None once the shape is over."""
    if seconds >= length:
        return None
    return max(1, round(most * function(seconds / length)))
