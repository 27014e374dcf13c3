"""Everything is killed, stopped and flooded under constant mixed load; afterwards each promise is checked.

Starts a system of its own on this machine. A tenth of the traffic are the bad inputs of the test suite. Prints what
was done and how long it took to serve again, what was answered, and which promise held; the exit status is 1 where one
did not.

Example: python stress_test/chaos.py --callers 4
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import aiohttp

import chaos_disturbances
import photographs
import report_file
from chaos_disturbances import Disturbance
from chaos_ledger import Check, Footprint, Jobs, Ledger, has_returned, judge_jobs, judge_replies, table
from chaos_load import Load
from job_audit import count_ends
from local_system import LocalSystem, first_model, local_system
from model_server.classifier import DEFAULT_MODEL
from processes import progress

RECOVERY_SECONDS = 60
DRAIN_SECONDS = 180
RETURN_SECONDS = 60
"""Idle connections are closed, and memory given back, within this time."""
AFTER_OUTAGE_SECONDS = 1.0
"""A connection that the killed door held may be found broken a moment later."""


@dataclass(frozen=True)
class Outcome:
    """What a disturbance led to; ``recovered_seconds`` None: it did not serve again within the minute."""

    name: str
    begin: float
    end: float
    recovered_seconds: float | None
    closes_door: bool


async def disturb(system: LocalSystem, load: Load, probe: Probe, disturbance: Disturbance) -> Outcome:
    begin = time.monotonic()
    await disturbance.act(system, load)
    acted = time.monotonic()
    recovered = await probe.wait(RECOVERY_SECONDS)
    end = time.monotonic()
    return Outcome(disturbance.name, begin, end, end - acted if recovered else None, disturbance.closes_door)


class Probe:
    """Asks, outside the load, for one synchronous and one queued prediction."""

    def __init__(self, url: str, model: str, picture: photographs.Photograph) -> None:
        self._url = f"{url}/v1/models/{model}:predict"
        self._picture = picture

    async def wait(self, seconds: float) -> bool:
        """Return whether both were answered within the time."""
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            for prefer in ({}, {"Prefer": "respond-async, wait=2"}):
                while not await self._answers(session, prefer):
                    if time.monotonic() > deadline:
                        return False
                    await asyncio.sleep(0.1)
        return True

    async def _answers(self, session: aiohttp.ClientSession, prefer: dict[str, str]) -> bool:
        picture = self._picture.unlike_any_other()
        headers = {"Content-Type": picture.media_type, **prefer}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with session.post(self._url, data=picture.content, headers=headers) as reply:
                await reply.read()
                return reply.status == 200
        return False


def footprint(system: LocalSystem) -> dict[str, tuple[float, int]]:
    """Return memory, shared pages counted once, and descriptors of each service with its children.

    PostgreSQL's files are left out: each connection keeps those of the tables it has read open for the next time.
    """
    found = {}
    for name, processes in system.processes().items():
        memory, descriptors = 0.0, 0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory += process.memory_full_info().pss / 2**20
                tables = [file for file in process.open_files() if Path(file.path).is_relative_to(system.data)]
                descriptors += process.num_fds() - len(tables)
        found[name] = (memory, descriptors)
    return found


async def wait_for_footprint(system: LocalSystem, before: Footprint) -> Footprint:
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        after = footprint(system)
        if all(check.held for check in has_returned(before, after)) or time.monotonic() > deadline:
            return after
        await asyncio.sleep(1)


def jobs_in(database: str) -> Jobs:
    with psycopg.connect(database) as connection:
        statuses = dict(connection.execute("SELECT id::text, status FROM predictions").fetchall())
        ends = dict(connection.execute("SELECT id::text, count(*) FROM ends GROUP BY id").fetchall())
        left = connection.execute("SELECT count(*) FROM pgqueuer").fetchone()
    return Jobs(statuses, ends, int(left[0]) if left else 0)


async def drained(database: str) -> Jobs:
    """Return the jobs once none is open, or after the longest time that takes."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        jobs = await asyncio.to_thread(jobs_in, database)
        is_done = jobs.left == 0 and all(status in {"succeeded", "failed"} for status in jobs.statuses.values())
        if is_done or time.monotonic() > deadline:
            return jobs
        await asyncio.sleep(0.5)


async def wreak(system: LocalSystem, wanted: Sequence[Disturbance], given: argparse.Namespace) -> bool:
    """Return whether every promise held."""
    ledger, model, pictures = Ledger(), first_model(system.url), photographs.load(given.pictures)
    load = Load(system.url, model, pictures, ledger, given.callers)
    probe = Probe(system.url, model, pictures[0])
    count_ends(system.database_url())
    progress("warming up")
    async with load.running():
        await asyncio.sleep(given.warm_up)
    await drained(system.database_url())
    before = footprint(system)
    outcomes = []
    async with load.running():
        for disturbance in wanted:
            progress(disturbance.name)
            await asyncio.sleep(given.between)
            outcomes.append(await disturb(system, load, probe, disturbance))
        await asyncio.sleep(given.between)
    progress("waiting for the last results")
    jobs = await drained(system.database_url())
    progress("waiting for memory and descriptors")
    after = await wait_for_footprint(system, before)
    progress("")
    outages = [(one.begin, one.end + AFTER_OUTAGE_SECONDS) for one in outcomes if one.closes_door]
    checks = [*judge_jobs(ledger, jobs), *judge_replies(ledger, outages), *has_returned(before, after)]
    text = describe(ledger, outcomes, jobs, checks)
    print(text)
    if given.report:
        report_file.replace(given.report, "chaos", f"Measured on {report_file.machine()}.\n\n{text}")
    return all(check.held for check in checks) and all(one.recovered_seconds is not None for one in outcomes)


def describe(ledger: Ledger, outcomes: Sequence[Outcome], jobs: Jobs, checks: Sequence[Check]) -> str:
    """Return what was done, what was answered and what held, as Markdown."""
    lines = ["| disturbance | serving again after |", "|---|---|"]
    for outcome in outcomes:
        seconds = outcome.recovered_seconds
        lines.append(f"| {outcome.name} | {'**not within a minute**' if seconds is None else f'{seconds:.1f} s'} |")
    lines += ["", "| request | replies by status |", "|---|---|"]
    for kind, statuses in by_kind(ledger.replies).items():
        lines.append(f"| {kind} | {', '.join(f'{status}: {count}' for status, count in sorted(statuses.items()))} |")
    results = Counter(jobs.statuses.values())
    lines += ["", f"Jobs: {', '.join(f'{count} {status}' for status, count in results.items())}.", ""]
    return "\n".join([*lines, table(checks)])


def by_kind(replies: Counter[tuple[str, int]]) -> dict[str, Counter[int]]:
    """Return statuses by kind of request, all bad ones as one."""
    kinds: dict[str, Counter[int]] = {}
    for (kind, status), count in replies.items():
        kinds.setdefault("bad" if kind.startswith("bad,") else kind, Counter())[status] += count
    return kinds


def run(given: argparse.Namespace) -> int:
    wanted = [one for one in chaos_disturbances.ALL if not given.only or one.name in given.only]
    settings = chaos_disturbances.SETTINGS | {"model_dir": given.model_dir.resolve()}
    with local_system(**settings) as system:
        if system.service("feedback") is None:
            wanted = [one for one in wanted if "feedback" not in one.name]
        return 0 if asyncio.run(wreak(system, wanted, given)) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=DEFAULT_MODEL, help="bundle that is served")
    parser.add_argument("--pictures", type=Path, default=DEFAULT_MODEL, help="folder with labels.tsv, or a bundle")
    parser.add_argument("--callers", type=int, default=4, help="synchronous ones, and as many of the queue")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds before memory is first measured")
    parser.add_argument("--between", type=float, default=4, help="seconds of load before each disturbance")
    parser.add_argument("--report", type=Path, help="Markdown whose section `chaos` is to be replaced")
    names = [one.name for one in chaos_disturbances.ALL]
    parser.add_argument("--only", action="append", choices=names, help="without: all of them, in this order")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(parse()))
