"""Makes tables and plots of what `scaling.py` measured, and puts the tables into a report.

Example: python stress_test/scaling_report.py --results stress-results/scaling.jsonl --report stress-results/REPORT.md
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import capacity_check
import report_file
import scaling
from scaling import BATCHING, RUNTIMES, SERVERS, USERS, Cell

Results = Mapping[str, Mapping[str, float]]
COLOURS = {"litert": "tab:blue", "openvino": "tab:orange", "tensorflow": "tab:green"}
PATHS = {"direct": "predictor alone", "sync": "through the queue-proxy", "async": "queued and waited for"}
MISSING = "–"


def table(results: Results, figures: Mapping[str, str]) -> str:
    """Return figures over users, a column each, for each server and path."""
    head = [f"{title}, {users}" for title in figures.values() for users in USERS]
    lines = [f"| runtime | workers | path | {' | '.join(head)} |", "|---" * (len(head) + 3) + "|"]
    for server in SERVERS:
        for path in ("sync", "async"):
            cells = [_figure(results, Cell(server, path, users), name) for name in figures for users in USERS]
            lines.append(f"| {server.runtime} | {server.workers} | {path} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(results: Results) -> str:
    """Return CPU time a request and memory of the predictor at 32 users."""
    lines = ["| runtime | workers | CPU-ms, sync | CPU-ms, async | predictor MiB |", "|---|---|---|---|---|"]
    for server in SERVERS:
        cells = [_figure(results, Cell(server, path, 32), "cpu_ms", ".1f") for path in ("sync", "async")]
        cells.append(_figure(results, Cell(server, "sync", 32), "predictor_mib"))
        lines.append(f"| {server.runtime} | {server.workers} | {' | '.join(cells)} |")
    return "\n".join(lines)


def batching_table(results: Results) -> str:
    """Return TensorFlow with batches beside one picture at a time."""
    head = [f"{title}, {users}" for title in ("requests/s", "p95 ms") for users in USERS]
    lines = [f"| TensorFlow | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for server in BATCHING:
        cells = [_figure(results, Cell(server, "sync", users), name) for name in ("rate", "p95") for users in USERS]
        name = f"batches of up to {server.max_batch}" if server.max_batch > 1 else "no batches"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(results: Results, cell: Cell, name: str, form: str = ".0f") -> str:
    return format(results[cell.key()][name], form) if cell.key() in results else MISSING


def draw_scaling(file: Path, results: Results) -> None:
    """Draw requests/s and p95 over users, a line for each runtime and number of workers, sync beside async."""
    plt = _pyplot()
    figure, grid = plt.subplots(2, 2, figsize=(11, 7.5), sharex=True, sharey="row", layout="constrained")
    for column, path in zip(grid.T, ("sync", "async"), strict=True):
        for axes, name, title in zip(column, ("rate", "p95"), ("requests/s", "p95, ms"), strict=True):
            for server in SERVERS:
                cells = [Cell(server, path, users) for users in USERS]
                points = [(c.users, results[c.key()][name]) for c in cells if c.key() in results]
                label = f"{server.runtime}, {server.workers} {'worker' if server.workers == 1 else 'workers'}"
                axes.plot([at for at, _ in points], [value for _, value in points], color=COLOURS[server.runtime],
                          marker="o", linestyle="-" if server.workers == 2 else ":", label=label)  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks(USERS, [str(users) for users in USERS])
            axes.grid(alpha=0.3)
            if path == "sync":
                axes.set_ylabel(title)
        column[0].set_title(f"{path}: {PATHS[path]}")
        column[0].set_ylim(bottom=0)
        column[1].set_yscale("log")
        column[1].yaxis.set_major_formatter("{x:g}")
        column[1].set_xlabel("users that wait for each reply")
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(RUNTIMES), frameon=False
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_model(file: Path, results: Results) -> None:
    """Draw predicted beside measured p95 over utilisation."""
    plt = _pyplot()
    comparisons = list(capacity_check.compare(results))
    groups = sorted({(one.server.workers, one.path) for one in comparisons})
    figure, grid = plt.subplots(1, max(1, len(groups)), figsize=(12, 3.6), sharey=True, layout="constrained",
                                squeeze=False)  # fmt: skip
    for axes, (workers, path) in zip(grid[0], groups, strict=False):
        mine = [one for one in comparisons if (one.server.workers, one.path) == (workers, path)]
        loads, predicted = [one.utilisation * 100 for one in mine], [one.predicted_p95 for one in mine]
        tolerance = capacity_check.TOLERANCE
        axes.fill_between(loads, [p / (1 + tolerance) for p in predicted], [p / (1 - tolerance) for p in predicted],
                          color="tab:gray", alpha=0.2, label="within 25 % of it")  # fmt: skip
        axes.plot(loads, predicted, color="tab:gray", label="predicted")
        axes.plot(loads, [one.measured_p95 for one in mine], "o", color="tab:blue", label="measured")
        axes.axvline(80, color="tab:red", linestyle=":", linewidth=1)
        axes.set_title(f"{workers} {'worker' if workers == 1 else 'workers'}, {PATHS[path]}", fontsize="medium")
        axes.set_xlabel("utilisation, %")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("p95, ms")
    if comparisons:
        grid[0, 0].legend(fontsize="small", loc="upper left")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def write(results_file: Path, report: Path) -> None:
    """Draw scaling.png and model.png beside the results; replace the report's sections `scaling` and `capacity`."""
    results, folder = scaling.read(results_file), results_file.parent
    draw_scaling(folder / "scaling.png", results)
    draw_model(folder / "model.png", results)
    parts = [measured_on(results_file), picture(folder / "scaling.png", report, "Requests/s and p95 over users"),
             table(results, {"rate": "requests/s", "p95": "p95 ms"}), "At 32 users:", cost_table(results),
             "TensorFlow, 2 workers in one session, sync:", batching_table(results)]  # fmt: skip
    report_file.replace(report, "scaling", "\n\n".join(parts))
    comparison = capacity_check.table(list(capacity_check.compare(results)))
    drawn = picture(folder / "model.png", report, "Predicted and measured p95 over utilisation")
    verdict = capacity_check.verdict(list(capacity_check.compare(results)))
    report_file.replace(report, "capacity", f"{drawn}\n\n{comparison}\n\n{verdict}")


def picture(file: Path, report: Path, words: str) -> str:
    """Return the Markdown of a picture, its path as seen from the report."""
    return f"![{words}]({os.path.relpath(file, report.parent)})"


def measured_on(results_file: Path) -> str:
    """Return the machine and day that the results were begun on."""
    first = json.loads(results_file.read_text(encoding="utf-8").splitlines()[0])
    others = [figures["others_cores"] for figures in scaling.read(results_file).values() if "others_cores" in figures]
    disturbed = sum(cores > scaling.OTHERS_CORES for cores in others)
    watched = f" In {disturbed} of {len(others)} cells other processes took over {scaling.OTHERS_CORES:g} cores."
    return f"Measured on {first['measured_on']}.{watched if others else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="of scaling.py; the plots go beside them")
    parser.add_argument("--report", type=Path, required=True, help="Markdown whose tables are to be replaced")
    given = parser.parse_args()
    write(given.results, given.report)


if __name__ == "__main__":
    main()
