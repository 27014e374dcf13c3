"""The queueing model beside the open-loop measurements of `scaling.py`.

The model is given what the closed loop of most requests/s measured, and what a light open loop measured, and predicts
the p95 of loads that it has not seen. Service time: the cores in use over the requests/s of the closed loop. Deviation:
that of the light loop's latencies. Wake: the service time by as much as a request of the light loop took more CPU time
than one of the closed loop. Overhead: what the light loop's mean latency has above all that, such as the way through
the queue-proxy.
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


def pod_of(light: Mapping[str, float], busy: Mapping[str, float], cores: int) -> Pod:
    """Return the pod that the figures of a light load and of the busiest one describe."""
    mean = cores / busy["rate"]
    wake = mean * max(0.0, light["cpu_ms"] / busy["cpu_ms"] - 1)
    pod = Pod(cores, mean, light["deviation"] / 1000, wake=wake)
    rate = light["rate"]
    return replace(pod, overhead=max(0.0, light["mean"] / 1000 - pod.service(rate) - pod.mean_wait(rate)))


def compare(results: Mapping[str, Mapping[str, float]]) -> Iterator[Comparison]:
    """Return every open-loop cell of the results beside the model, but the light one that it was given."""
    for cell in scaling.matrix():
        light, busy = (replace(cell, share=share).key() for share in (scaling.LIGHT, 1.0))
        if scaling.LIGHT < cell.share < 1 and all(key in results for key in (light, busy, cell.key())):
            pod = pod_of(results[light], results[busy], cell.server.workers)
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
