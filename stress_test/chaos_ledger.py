"""What was promised and what came of it: the callers' book, and the judgement over it. No I/O."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

PASSING = frozenset({502, 503, 504})
"""What a good request may be answered with while something is down."""
FD_SLACK = 16
MEMORY_FACTOR, MEMORY_SLACK_MIB = 1.25, 32.0
Footprint = Mapping[str, tuple[float, int]]
"""Of each service: memory in MiB, open descriptors."""


@dataclass
class Ledger:
    """Every reply, as it came in. Times are those of one monotonic clock, seconds."""

    replies: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)
    """Idempotency key to prediction id."""
    unclean: list[str] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    """When a connection broke before there was a reply."""
    never_accepted: int = 0

    def note(self, kind: str, status: int, headers: Mapping[str, str], body: bytes, allowed: Iterable[int]) -> None:
        """Write down a reply; one that breaks the contract of replies is ``unclean``."""
        self.replies[kind, status] += 1
        fault = fault_of(status, headers, body, {*allowed, *PASSING})
        if fault:
            self.unclean.append(f"{kind}: {fault}")

    def accept(self, key: str, identifier: str) -> None:
        """Write down a 202; a second one for the same key has to name the same prediction."""
        if self.accepted.setdefault(key, identifier) != identifier:
            self.unclean.append(f"key {key} was given two predictions, {self.accepted[key]} and {identifier}")


def fault_of(status: int, headers: Mapping[str, str], body: bytes, allowed: Iterable[int]) -> str | None:
    """Say what is wrong with a reply: a status not ``allowed``, no sentence in ``error``, no Retry-After with 503."""
    if status not in allowed:
        return f"{status} {body[:200].decode(errors='replace')}"
    if status < 400:
        return None
    try:
        document = json.loads(body)
        sentence = document["error"] if list(document) == ["error"] else None
    except (ValueError, KeyError, TypeError):
        sentence = None
    if not isinstance(sentence, str) or "Traceback" in sentence:
        return f"{status} without a sentence: {body[:200].decode(errors='replace')}"
    if status == 503 and not headers.get("Retry-After", "").isdigit():
        return "503 without Retry-After"
    return None


@dataclass(frozen=True)
class Check:
    """One promise."""

    name: str
    held: bool
    detail: str


@dataclass(frozen=True)
class Jobs:
    """What PostgreSQL has in the end."""

    statuses: Mapping[str, str]
    ends: Mapping[str, int]
    """How often each prediction was written as ended."""
    left: int
    """Entries of the queue that nobody will take."""


def judge_jobs(ledger: Ledger, jobs: Jobs) -> list[Check]:
    """Return whether each accepted job has exactly one result, and nothing else is left behind."""
    accepted = set(ledger.accepted.values())
    unfinished = sorted(key for key in accepted if jobs.statuses.get(key) not in {"succeeded", "failed"})
    twice = sorted(key for key in accepted if jobs.ends.get(key, 0) > 1)
    strangers = len(jobs.statuses.keys() - accepted)
    return [
        Check("each accepted job has its result", bool(accepted) and not unfinished,
              f"{len(accepted)} accepted, {len(unfinished)} without: {', '.join(unfinished[:3]) or 'none'}"),
        Check("no result was written twice", not twice, f"{len(twice)} twice {', '.join(twice[:3])}".strip()),
        Check("the queue is empty", jobs.left == 0, f"{jobs.left} entries left"),
        Check("no job that nobody was told of is unfinished",
              all(status in {"succeeded", "failed"} for status in jobs.statuses.values()),
              f"{strangers} jobs of probes, or whose 202 was lost on its way"),
    ]  # fmt: skip


def judge_replies(ledger: Ledger, outages: Sequence[tuple[float, float]]) -> list[Check]:
    """Return whether each reply was clean, and connections broke only while the door was being killed."""
    outside = [at for at in ledger.lost if not any(begin <= at <= end for begin, end in outages)]
    errors = sum(count for (_, status), count in ledger.replies.items() if status >= 400)
    return [
        Check("each error was a clean 4xx or 5xx, with Retry-After where due", not ledger.unclean,
              "; ".join(ledger.unclean[:3]) or f"{errors} errors in {ledger.replies.total()} replies"),
        Check("connections broke only while the door was dead", not outside,
              f"{len(ledger.lost)} broke, {len(outside)} of them at other times"),
        Check("each submission was accepted within its patience", not ledger.never_accepted,
              f"{ledger.never_accepted} were not"),
    ]  # fmt: skip


def has_returned(before: Footprint, after: Footprint) -> list[Check]:
    """Return whether memory and descriptors of each service are where they were, but for a little."""
    checks = []
    for name, (memory, descriptors) in before.items():
        memory_now, descriptors_now = after.get(name, (float("inf"), 10**9))
        held = memory_now <= memory * MEMORY_FACTOR + MEMORY_SLACK_MIB and descriptors_now <= descriptors + FD_SLACK
        detail = f"{memory:.0f} to {memory_now:.0f} MiB, {descriptors} to {descriptors_now} descriptors"
        checks.append(Check(f"{name} is back to its memory and descriptors", held, detail))
    return checks


def table(checks: Iterable[Check]) -> str:
    """Return the checks as Markdown."""
    rows = [f"| {check.name} | {'yes' if check.held else '**NO**'} | {check.detail} |" for check in checks]
    return "\n".join(["| promise | held | measured |", "|---|---|---|", *rows])
