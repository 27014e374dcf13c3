"""A run in Markdown and as a picture, from Locust's CSV files and the samples taken meanwhile."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

from observer import Sample

TOTAL = "Aggregated"
Row = dict[str, str]


def write(folder: Path, title: str, samples: Sequence[Sample], verdict: str) -> str:
    """Write ``summary.md`` and ``summary.png`` beside Locust's files; return the Markdown."""
    rows, history = read(folder / "locust_stats.csv"), read(folder / "locust_stats_history.csv")
    draw(folder / "summary.png", title, [row for row in history if row["Name"] == TOTAL], samples)
    text = markdown(title, rows, samples, verdict)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    return text


def read(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def markdown(title: str, rows: Sequence[Row], samples: Sequence[Sample], verdict: str) -> str:
    """Return the table of all routes, what a request cost, and Locust's last words."""
    lines = [f"# {title}", "", "| route | requests/s | p50 ms | p95 ms | p99 ms | requests | errors |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        name = "all" if row["Name"] == TOTAL else row["Name"]
        cells = [f"{float(row['Requests/s']):.1f}", row["50%"], row["95%"], row["99%"]]
        lines.append(f"| {' | '.join([name, *cells, row['Request Count'], row['Failure Count']])} |")
    lines += ["", *_costs(rows, samples)]
    missed = [line for line in verdict.splitlines() if line.endswith(".") and ("allowed" in line or "judge" in line)]
    lines += ["", *(missed or ["Every objective was held."]), ""]
    return "\n".join(lines)


def _costs(rows: Sequence[Row], samples: Sequence[Sample]) -> list[str]:
    lines = []
    # A result is a job that other requests submitted and asked for.
    requests = sum(int(row["Request Count"]) for row in rows if row["Type"] not in {"", "job"})
    spent = [sample.cpu_seconds for sample in samples if sample.cpu_seconds is not None]
    if requests and len(spent) > 1:
        lines.append(f"CPU time of the system: {(spent[-1] - spent[0]) / requests * 1000:.2f} ms a request.")
    replicas = [sample.replicas for sample in samples if sample.replicas is not None]
    if replicas:
        span = f"{min(replicas)} to {max(replicas)}, {replicas[-1]} in the end"
        lines.append(
            f"Replicas of the predictor: {span if max(replicas) > min(replicas) else f'{replicas[-1]} throughout'}."
        )
    queued = [sample.queued for sample in samples if sample.queued is not None]
    if queued:
        oldest = max(sample.oldest_age_seconds or 0 for sample in samples)
        lines.append(f"Most predictions in the queue: {max(queued)}. The oldest at any time: {oldest:.1f} s.")
    return ["\n\n".join(lines)]


def draw(file: Path, title: str, history: Sequence[Row], samples: Sequence[Sample]) -> None:
    """Draw requests/s, latency, and replicas with the queue on one time axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    begin = samples[0].at
    times, sampled = [int(row["Timestamp"]) - begin for row in history], [sample.at - begin for sample in samples]
    figure, (rates, latency, replicas) = plt.subplots(3, 1, sharex=True, figsize=(9, 8), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    users, queue = rates.twinx(), replicas.twinx()
    rates.plot(times[1:], per_second(history, "Total Request Count"), color="tab:blue", label="requests/s")
    rates.plot(times[1:], per_second(history, "Total Failure Count"), color="tab:red", label="errors/s")
    users.step(times, _numbers(history, "User Count"), where="post", color="tab:gray", linestyle=":", label="users")
    p95 = [float("nan") if one.p95_ms is None else one.p95_ms for one in samples]
    latency.plot(sampled, p95, color="tab:brown", linewidth=1, label="p95, last second, at the queue-proxy")
    for name, colour in (("50%", "tab:green"), ("95%", "tab:orange"), ("99%", "tab:red")):
        latency.plot(times, _numbers(history, name), color=colour, label=f"p{name.rstrip('%')}, last 10 s")
    replicas.step(sampled, _known([one.replicas for one in samples]), where="post", label="replicas")
    queue.plot(sampled, _known([one.queued for one in samples]), color="tab:purple", label="queued")
    names = {rates: "requests/s", users: "users", latency: "ms", replicas: "replicas", queue: "predictions queued"}
    for axes, name in names.items():
        is_right = axes in {users, queue}
        axes.set_ylabel(name)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # room for the legend
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper right" if is_right else "upper left", fontsize="small")
    replicas.set_xlabel("s")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def per_second(rows: Sequence[Row], name: str) -> list[float]:
    """Return by how much a count grew a second, from each row to the next; Locust's own rates are means over 10 s."""
    pairs = itertools.pairwise(zip(_numbers(rows, "Timestamp"), _numbers(rows, name), strict=True))
    return [(after[1] - before[1]) / max(1.0, after[0] - before[0]) for before, after in pairs]


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) if row[name] not in {"", "N/A"} else float("nan") for row in rows]


def _known(values: Sequence[int | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]
