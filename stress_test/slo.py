"""What a run has to hold: share of errors, p95 and p99 of each route. Locust's exit code is 1 where one is missed.

The defaults suit a closed loop of a few users a core. Others come from a TOML file, STRESS_OBJECTIVES:

    ["V1 raw"]
    error_rate = 0.001
    p95_ms = 80
    p99_ms = 200
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Objective:
    """Upper bounds; ``error_rate`` is a share of the requests, 0..1."""

    error_rate: float = 0.0
    p95_ms: float = 1000
    p99_ms: float = 2000


@dataclass(frozen=True)
class Measured:
    """One route of a run."""

    name: str
    requests: int
    errors: int
    p95_ms: float
    p99_ms: float


PAGE, V1_BASE64, V1_RAW, V2, GRPC = "page", "V1 base64", "V1 raw", "V2", "gRPC"
SUBMIT, POLL, RESULT, FEEDBACK = "async submit", "async poll", "async result", "feedback"

OBJECTIVES = {
    PAGE: Objective(p95_ms=300, p99_ms=600),
    V1_BASE64: Objective(),
    V1_RAW: Objective(),
    V2: Objective(),
    GRPC: Objective(),
    SUBMIT: Objective(p95_ms=500),
    POLL: Objective(p95_ms=5000, p99_ms=10_000),
    RESULT: Objective(p95_ms=5000, p99_ms=10_000),
    FEEDBACK: Objective(p95_ms=500),
}


def load(file: Path | None) -> dict[str, Objective]:
    """Return the defaults, replaced route by route by those of a TOML file.

    Raises ValueError for a route or bound that does not exist.
    """
    if file is None:
        return OBJECTIVES
    given = tomllib.loads(file.read_text(encoding="utf-8"))
    unknown = sorted(given.keys() - OBJECTIVES.keys())
    if unknown:
        raise ValueError(f"{file}: no route {unknown[0]!r}; there are {', '.join(OBJECTIVES)}.")
    try:
        return OBJECTIVES | {name: Objective(**bounds) for name, bounds in given.items()}
    except TypeError as error:
        raise ValueError(f"{file}: a bound is error_rate, p95_ms or p99_ms: {error}") from None


def violations(rows: Iterable[Measured], objectives: Mapping[str, Objective]) -> list[str]:
    """Return a sentence for each bound that was missed; that nothing was measured is one too."""
    measured = [row for row in rows if row.requests]
    if not measured:
        return ["No request was answered: there is nothing to judge."]
    return [sentence for row in measured if row.name in objectives for sentence in _missed(row, objectives[row.name])]


def _missed(row: Measured, objective: Objective) -> list[str]:
    rate = row.errors / row.requests
    sentences = []
    if rate > objective.error_rate:
        sentences.append(f"{row.name}: {rate:.2%} errors, allowed {objective.error_rate:.2%}.")
    for name, value, bound in (("p95", row.p95_ms, objective.p95_ms), ("p99", row.p99_ms, objective.p99_ms)):
        if value > bound:
            sentences.append(f"{row.name}: {name} {value:.0f} ms, allowed {bound:.0f} ms.")
    return sentences
