"""The queueing model beside the open-loop measurements of `scaling.py`.

The model is given what one caller and 32 callers measured in a closed loop, and predicts the p95 of loads that it has
not seen. Service time: the cores in use over the requests/s of 32 callers. Deviation: that of one caller's latencies.
Overhead: what one caller's mean latency has above the service time, such as the way through the queue-proxy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import scaling
from capacity import HIGHEST_UTILISATION, Pod
from scaling import Server

TOLERANCE = 0.25
LEAST_LOADS = 6


@dataclass(frozen=True)
class Comparison:
    """One load; times in ms."""

    server: Server
    path: str
    rate: float
    utilisation: float
    predicted_p95: float
    measured_p95: float

    @property
    def error(self) -> float:
        """Return the relative error of the prediction."""
        return self.predicted_p95 / self.measured_p95 - 1

    @property
    def counts(self) -> bool:
        """Return whether the model claims to hold at this load."""
        return self.utilisation < HIGHEST_UTILISATION


def pod_of(alone: Mapping[str, float], busy: Mapping[str, float], cores: int) -> Pod:
    """Return the pod that the figures of one caller and of many describe."""
    mean = cores / busy["rate"]
    overhead = max(0.0, alone["mean"] / 1000 - mean)
    return Pod(cores, mean, alone["deviation"] / 1000, overhead)


def compare(results: Mapping[str, Mapping[str, float]]) -> Iterator[Comparison]:
    """Return every open-loop cell of the results beside the model."""
    for cell in scaling.matrix():
        ends = [replace(cell, users=users, share=0.0).key() for users in (1, 32)]
        if cell.share and all(key in results for key in (*ends, cell.key())):
            pod = pod_of(results[ends[0]], results[ends[1]], cell.server.workers)
            measured = results[cell.key()]
            rate = measured["rate"]
            predicted = pod.quantile(rate, 0.95) * 1000
            yield Comparison(cell.server, cell.path, rate, pod.utilisation(rate), predicted, measured["p95"])


def table(comparisons: list[Comparison]) -> str:
    """Return them as Markdown."""
    lines = ["| workers | path | requests/s | utilisation | predicted p95 ms | measured p95 ms | error |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in comparisons:
        cells = [str(one.server.workers), one.path, f"{one.rate:.0f}", f"{one.utilisation:.0%}"]
        cells += [f"{one.predicted_p95:.1f}", f"{one.measured_p95:.1f}", f"{one.error:+.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def off(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return the loads that count and are off by more than a quarter."""
    return [one for one in comparisons if one.counts and abs(one.error) > TOLERANCE]


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Return in a sentence how many loads count and how many of them are off."""
    counted = sum(one.counts for one in comparisons)
    return (
        f"{counted} loads below {HIGHEST_UTILISATION:.0%}, {len(off(comparisons))} of them off by more than "
        f"{TOLERANCE:.0%}."
    )


def run(file: Path) -> int:
    """Print the comparison; 1 where a load that counts is off by more than a quarter, or too few were measured."""
    comparisons = list(compare(scaling.read(file)))
    print(f"{table(comparisons)}\n\n{verdict(comparisons)}")
    return 1 if off(comparisons) or sum(one.counts for one in comparisons) < LEAST_LOADS else 0
