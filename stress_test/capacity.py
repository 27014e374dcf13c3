"""How many replicas, at what concurrency, for what price: a queueing model of pods, fed with a measured service time.

A pod with c cores is a queue M/G/c: requests come at random moments, one core works on each. How long they wait is
Allen and Cunneen's approximation (A. O. Allen, Probability, Statistics, and Queueing Theory with Computer Science
Applications, 1990):

    mean wait = ErlangC(c, a) / (c mu - lambda) * (1 + Cs^2) / 2
    a = lambda / mu, Cs^2 = variance / mean^2 of the service time

with an exponential tail of that mean for those who wait, and a service time distributed as Gamma with the measured
mean and variance. A request that finds a core idle takes longer than one that follows another: processes are woken,
caches have gone cold. So the service time falls from mean + wake on an idle pod to the mean on a busy one, with the
square of the share of time that its cores are idle, as the CPU time of a request is measured to do: idle for a moment
is not yet cold.

A load balancer that does not know who is busy splits the requests at random: each pod is a queue of its own. --check
compares the model with the open-loop measurements of `scaling.py`.

Example: python stress_test/capacity.py --rate 400 --service-ms 6.5 --deviation-ms 1.5 --cores 2 --p99-ms 80
Example: python stress_test/capacity.py --check stress_test/results/scaling.jsonl
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GRID = 400
FIXED_POINT_STEPS = 40
HIGHEST_UTILISATION = 0.8
"""Above it a little more load means a lot more waiting, and the approximation is off."""
MOST_REPLICAS = 10_000
CORE_HOUR = 0.04
"""US dollars: about what the large clouds ask for a core of a general-purpose machine."""


@dataclass(frozen=True)
class Pod:
    """``mean``, ``deviation``: of the service time of a busy pod; ``wake``: by how much that of an idle one is longer;
    ``overhead``: what a request takes besides, without queueing for a core. Seconds."""

    cores: int
    mean: float
    deviation: float
    overhead: float = 0.0
    wake: float = 0.0

    def utilisation(self, rate: float) -> float:
        """Return ``rate`` requests/s as a share of the most that the pod can do."""
        return rate * self.mean / self.cores

    def service(self, rate: float) -> float:
        """Return the mean service time at ``rate``, seconds: m = mean + wake (1 - rate m / cores)^2."""
        found = self.mean
        for _ in range(FIXED_POINT_STEPS):
            found = self.mean + self.wake * max(0.0, 1 - rate * found / self.cores) ** 2
        return found

    def chance_of_waiting(self, rate: float) -> float:
        """Return Erlang's C: the probability that all cores are busy. ``rate`` has to be below saturation."""
        offered = rate * self.service(rate)
        blocked = 1.0
        for servers in range(1, self.cores + 1):  # Erlang's B, by its recursion
            blocked = offered * blocked / (servers + offered * blocked)
        return blocked / (1 - offered / self.cores * (1 - blocked))

    def mean_wait(self, rate: float) -> float:
        """Return how long a request waits for a core, seconds, by Allen and Cunneen."""
        service = self.service(rate)
        spread = (1 + (self.deviation / service) ** 2) / 2
        return self.chance_of_waiting(rate) / (self.cores / service - rate) * spread

    def quantile(self, rate: float, share: float) -> float:
        """Return the time, seconds, within which ``share`` of the requests are answered; infinite at saturation."""
        if self.utilisation(rate) >= 1:
            return math.inf
        waiting = self.chance_of_waiting(rate)
        tail = self.mean_wait(rate) / waiting if waiting else 0.0
        services, weights = gamma(self.service(rate), self.deviation)
        low, high = 0.0, float(services[-1]) + tail * 50
        for _ in range(60):
            middle = (low + high) / 2
            late = _late(middle - services, waiting, tail)
            low, high = (middle, high) if float(weights @ late) > 1 - share else (low, middle)
        return self.overhead + high

    def concurrency(self, rate: float) -> float:
        """Return the requests in a pod on average, by Little's law."""
        return rate * (self.overhead + self.mean_wait(rate) + self.service(rate))


def _late(left: NDArray[np.float64], waiting: float, tail: float) -> NDArray[np.float64]:
    """Return the chance that a wait is longer than what is left of the time after the service."""
    if not tail:
        return (left < 0).astype(np.float64)
    return np.where(left < 0, 1.0, waiting * np.exp(-np.maximum(left, 0) / tail))


def gamma(mean: float, deviation: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and weights of a Gamma distribution; of a fixed value where there is next to no deviation."""
    if deviation < mean * 0.01:
        return np.array([mean]), np.array([1.0])
    shape = (mean / deviation) ** 2
    points = (np.arange(GRID) + 0.5) * (mean + 10 * deviation) / GRID
    logs = (shape - 1) * np.log(points) - points * shape / mean
    weights = np.exp(logs - logs.max())
    return points, weights / weights.sum()


@dataclass(frozen=True)
class Plan:
    """What to set. ``queue_trigger``: queued predictions for each replica above which another one is started."""

    replicas: int
    utilisation: float
    p99: float
    target_concurrency: int
    queue_trigger: int
    cost_per_million: float


def plan(pod: Pod, rate: float, p99: float, cold_start: float, core_hour: float = CORE_HOUR) -> Plan:
    """Return the least replicas that hold ``p99`` seconds at ``rate`` requests/s; raises ValueError where none do."""
    if pod.quantile(0, 0.99) > p99:
        raise ValueError(
            f"One request alone takes {pod.quantile(0, 0.99) * 1000:.0f} ms (p99): no number of replicas makes it "
            f"{p99 * 1000:.0f} ms."
        )
    for replicas in range(1, MOST_REPLICAS + 1):
        share = rate / replicas
        if pod.utilisation(share) <= HIGHEST_UTILISATION and pod.quantile(share, 0.99) <= p99:
            break
    else:
        raise ValueError(f"More than {MOST_REPLICAS} replicas would be needed.")
    # What a replica works off in the part of the time that a cold start leaves.
    spare = max(0.0, p99 - cold_start - pod.quantile(0, 0.99))
    return Plan(
        replicas=replicas,
        utilisation=pod.utilisation(share),
        p99=pod.quantile(share, 0.99),
        target_concurrency=max(1, math.ceil(pod.concurrency(share))),
        queue_trigger=max(1, math.floor(spare * pod.cores / pod.mean)),
        cost_per_million=replicas * pod.cores * core_hour / 3600 / rate * 1_000_000,
    )


def describe(found: Plan, p99: float, cold_start: float) -> str:
    """Return the plan in lines for a reader."""
    lines = [
        f"replicas                   {found.replicas} ({found.utilisation:.0%} busy, p99 {found.p99 * 1000:.0f} ms)",
        f"Knative targetConcurrency  {found.target_concurrency}",
        f"KEDA queue trigger         {found.queue_trigger} queued predictions a replica",
        f"cost                       {found.cost_per_million:.2f} a million predictions",
    ]
    if cold_start >= p99:
        lines.append(
            f"A cold start takes {cold_start:g} s, longer than the p99 of {p99:g} s: a request that waits for one "
            f"misses it. Keep {found.replicas} replicas running, and let the queue scale what may come later."
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="RESULTS", help="compare the model with measurements instead")
    parser.add_argument("--rate", type=float, help="requests/s to plan for")
    parser.add_argument("--service-ms", type=float, help="mean time that a request keeps a core")
    parser.add_argument("--deviation-ms", type=float, default=0.0, help="its standard deviation")
    parser.add_argument("--wake-ms", type=float, default=0.0, help="by how much that is longer on an idle pod")
    parser.add_argument("--overhead-ms", type=float, default=0.0, help="what a request takes besides")
    parser.add_argument("--cores", type=int, default=1, help="of a pod; it should have as many workers")
    parser.add_argument("--p99-ms", type=float, help="target")
    parser.add_argument("--cold-start", type=float, default=5.0, help="seconds from a pod's creation to its readiness")
    parser.add_argument("--core-hour", type=float, default=CORE_HOUR, help="price of a core for an hour")
    given = parser.parse_args()
    if not given.check and None in {given.rate, given.service_ms, given.p99_ms}:
        parser.error("--rate, --service-ms and --p99-ms are needed, or --check")
    if not given.check and min(given.rate, given.service_ms, given.p99_ms) <= 0:
        parser.error("--rate, --service-ms and --p99-ms have to be above 0")
    return given


def main() -> int:
    given = parse()
    if given.check:
        import capacity_check

        return capacity_check.run(given.check)
    times = (given.service_ms, given.deviation_ms, given.overhead_ms, given.wake_ms)
    pod = Pod(given.cores, *(milliseconds / 1000 for milliseconds in times))
    try:
        found = plan(pod, given.rate, given.p99_ms / 1000, given.cold_start, given.core_hour)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(describe(found, given.p99_ms / 1000, given.cold_start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
