"""Runs a shape against a cluster and checks that it is followed: up in time, nothing lost, back to the minimum.

Replicas come from the Kubernetes API, queue and latency from the queue-proxy. It does not matter what scales: HPA,
KEDA or Knative. Writes autoscaling.png, all on one time axis, beside Locust's report. The exit status is 1 where a
promise was not held.

Example: python stress_test/autoscaling.py --url http://pictures.example.com --namespace models --name mobilenet \\
  --shape spike --users 64 --seconds 300 --up-within 60 --down-within 600
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import stress
import summary
from chaos_ledger import Check, table
from observer import Observer, Sample
from pods import PREDICTOR, Pods
from processes import progress
from shapes import FUNCTIONS
from slo import RESULT

MOST_BLIND_SECONDS = 30.0
"""Without a reading: one takes 20 s where neither API server nor queue-proxy answers."""


def judge(
    samples: Sequence[Sample], minimum: int, load: tuple[float, float], limits: tuple[float, float]
) -> list[Check]:
    """Return whether replicas rose from ``minimum`` and came back to it, and were watched all the time.

    ``load``: Unix times of its begin and end; ``limits``: seconds that each may take, from the begin and from the end.
    """
    known = [(sample.at, sample.replicas) for sample in samples if sample.replicas is not None]
    begin, end = load
    first = next((replicas for at, replicas in reversed(known) if at <= begin), None)
    up = next((at for at, replicas in known if at >= begin and replicas > minimum), None)
    # The last time that it was elsewhere: what falls and rises again is not back.
    away = [at for at, replicas in known if at >= begin and replicas != minimum]
    is_back = bool(known) and known[-1][1] == minimum
    down = max(0.0, away[-1] - end) if away and is_back else None
    blind = _longest_without_reading(samples)
    return [
        Check(f"began at {minimum}", first == minimum, f"{'no' if first is None else first} replicas"),
        Check(f"scaled up within {limits[0]:g} s", up is not None and up - begin <= limits[0],
              "never" if up is None else f"after {up - begin:.0f} s, to {max(replicas for _, replicas in known)}"),
        Check(f"back to {minimum} within {limits[1]:g} s", down is not None and down <= limits[1],
              f"not yet: {known[-1][1] if known else 'no'} replicas" if down is None else f"after {down:.0f} s"),
        Check("replicas were watched all the time", blind <= MOST_BLIND_SECONDS,
              f"no reading for {blind:.0f} s" if known else "no reading at all"),
    ]  # fmt: skip


def _longest_without_reading(samples: Sequence[Sample]) -> float:
    """Return seconds; infinity where replicas were never known."""
    known = [sample.at for sample in samples if sample.replicas is not None]
    times = [samples[0].at, *known, samples[-1].at]
    return max(after - before for before, after in itertools.pairwise(times)) if known else math.inf


def last_known(samples: Sequence[Sample]) -> int | None:
    """Return the newest number of replicas that could be told."""
    return next((sample.replicas for sample in reversed(samples) if sample.replicas is not None), None)


def judge_results(rows: Sequence[summary.Row]) -> Check:
    """Return whether each queued prediction had its result, and a right one."""
    lost = {row["Name"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in rows}
    count, failed = lost.get(RESULT, (0, 0))
    return Check("no queued prediction was lost", count > 0 and failed == 0, f"{failed} of {count}")


def draw(file: Path, samples: Sequence[Sample], minimum: int) -> None:
    """Draw replicas, queue, oldest age and latency on one time axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    times = [sample.at - samples[0].at for sample in samples]
    rows = {"replicas": [s.replicas for s in samples], "queued": [s.queued for s in samples],
            "oldest, s": [s.oldest_age_seconds for s in samples], "p95, ms": [s.p95_ms for s in samples]}  # fmt: skip
    figure, axes = plt.subplots(len(rows), 1, sharex=True, figsize=(9, 8), layout="constrained")
    for axis, (name, values) in zip(axes, rows.items(), strict=True):
        axis.step(times, [float("nan") if value is None else value for value in values], where="post")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axes[0].axhline(minimum, linestyle=":", color="tab:gray")
    axes[-1].set_xlabel("s")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def run(given: argparse.Namespace) -> int:
    given.output.mkdir(parents=True, exist_ok=True)
    pods = Pods(given.namespace, PREDICTOR.format(name=given.name))
    model = os.environ.get("STRESS_MODEL") or given.name
    aim = stress.Target(given.url.rstrip("/"), given.grpc, pods.ready, lambda: None, given.url)
    with Observer(aim.url, aim.replicas, token=os.environ.get("STRESS_TOKEN")).watching() as samples:
        begin = time.time()
        stress.run_locust(given, aim, model)
        end = time.time()
        while time.time() < end + given.down_within and last_known(samples) != given.minimum:
            progress(f"{time.time() - end:.0f} of {given.down_within:g} s  {last_known(samples)} replicas")
            time.sleep(1)
    progress("")
    draw(given.output / "autoscaling.png", samples, given.minimum)
    limits = (given.up_within, given.down_within)
    checks = judge(samples, given.minimum, (begin, end), limits)
    checks.append(judge_results(summary.read(given.output / "locust_stats.csv")))
    print(table(checks))
    return 0 if all(check.held for check in checks) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of the queue-proxy")
    parser.add_argument("--grpc", help="host:port of the predictor's gRPC; without, no gRPC users")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--name", required=True, help="of the InferenceService")
    parser.add_argument("--minimum", type=int, default=1, help="replicas without load; 0 where it scales to zero")
    parser.add_argument("--shape", choices=sorted(FUNCTIONS), default="spike")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--processes", type=int, default=1, help="of Locust")
    parser.add_argument("--up-within", type=float, default=60, help="seconds from the load's begin")
    parser.add_argument("--down-within", type=float, default=600, help="seconds from the load's end")
    parser.add_argument("--pictures", type=Path, help="folder with pictures and labels.tsv")
    parser.add_argument("--model-dir", type=Path, help="the bundle that is served, for its golden pictures")
    parser.add_argument("--output", type=Path, default=Path("stress-results"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(parse()))
