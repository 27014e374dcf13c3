"""Makes tables and plots of what `scaling.py` measured.

Example: python stress_test/scaling_report.py --results stress_test/results/scaling.jsonl --output stress_test/results
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import scaling
from scaling import PROCESSES, RUNTIMES, USERS, Cell, Server

Results = Mapping[str, Mapping[str, float]]
COLOURS = {"litert": "tab:blue", "openvino": "tab:orange", "tensorflow": "tab:green"}
MISSING = "–"


def table(results: Results) -> str:
    """Return requests/s, p50 and p95 over users, and CPU time, for each server and path."""
    head = [f"{figure}, {users}" for figure in ("requests/s", "p50 ms", "p95 ms") for users in USERS]
    lines = [f"| runtime | processes | path | {' | '.join(head)} | CPU-ms, 32 | MiB |"]
    lines.append("|---" * (len(head) + 5) + "|")
    for runtime in RUNTIMES:
        for processes in PROCESSES:
            for path in ("sync", "async"):
                server = Server(runtime, processes)
                cells = [_figure(results, Cell(server, path, users), name) for name in ("rate", "p50", "p95")
                         for users in USERS]  # fmt: skip
                cells.append(_figure(results, Cell(server, path, 32), "cpu_ms", ".1f"))
                cells.append(_figure(results, Cell(server, path, 32), "predictor_mib"))
                lines.append(f"| {runtime} | {processes} | {path} | {' | '.join(cells)} |")
    return "\n".join(lines)


def batching_table(results: Results) -> str:
    """Return TensorFlow with batches of up to 8 beside one picture at a time."""
    lines = ["| TensorFlow, one session | " + " | ".join(f"requests/s, {users}" for users in USERS)
             + " | " + " | ".join(f"p95 ms, {users}" for users in USERS) + " |"]  # fmt: skip
    lines.append("|---" * (2 * len(USERS) + 1) + "|")
    for most in (1, 8):
        server = Server("tensorflow", 1, "thread", most)
        cells = [_figure(results, Cell(server, "sync", users), name) for name in ("rate", "p95") for users in USERS]
        lines.append(f"| {'batches of up to 8' if most > 1 else 'no batches'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(results: Results, cell: Cell, name: str, form: str = ".0f") -> str:
    return format(results[cell.key()][name], form) if cell.key() in results else MISSING


def draw_scaling(file: Path, results: Results) -> None:
    """Draw requests/s and p95 over users, a line for each runtime and number of processes, sync beside async."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(10, 7), sharex=True, sharey="row", layout="constrained")
    for column, path in zip(grid.T, ("sync", "async"), strict=True):
        for axes, name, title in zip(column, ("rate", "p95"), ("requests/s", "p95 ms"), strict=True):
            for runtime in RUNTIMES:
                for processes in PROCESSES:
                    cells = [Cell(Server(runtime, processes), path, users) for users in USERS]
                    points = [(c.users, results[c.key()][name]) for c in cells if c.key() in results]
                    axes.plot(*zip(*points, strict=True) if points else ((), ()), color=COLOURS[runtime], marker="o",
                              linestyle="-" if processes == 2 else ":", label=f"{runtime}, {processes}")  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks(USERS, [str(users) for users in USERS])
            axes.set_ylabel(title)
            axes.grid(alpha=0.3)
        column[0].set_title(path)
        column[0].set_ylim(bottom=0)
        column[1].set_yscale("log")
        column[1].set_xlabel("users")
    grid[0, 0].legend(fontsize="small", title="runtime, processes")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_model(file: Path, results: Results) -> None:
    """Draw predicted beside measured p95 over utilisation."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    import capacity_check

    comparisons = list(capacity_check.compare(results))
    groups = sorted({(one.server.processes, one.path) for one in comparisons})
    figure, grid = plt.subplots(1, max(1, len(groups)), figsize=(12, 3.6), sharey=True, layout="constrained",
                                squeeze=False)  # fmt: skip
    for axes, (processes, path) in zip(grid[0], groups, strict=False):
        mine = [one for one in comparisons if (one.server.processes, one.path) == (processes, path)]
        loads = [one.utilisation * 100 for one in mine]
        axes.plot(loads, [one.predicted_p95 for one in mine], color="tab:gray", label="predicted")
        axes.plot(loads, [one.measured_p95 for one in mine], "o", color="tab:blue", label="measured")
        axes.axvline(80, color="tab:red", linestyle=":", linewidth=1)
        axes.set_title(f"{processes} {'process' if processes == 1 else 'processes'}, {path}")
        axes.set_xlabel("utilisation, %")
        axes.set_ylim(bottom=0)
    grid[0, 0].set_ylabel("p95 ms")
    grid[0, 0].legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="of scaling.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for scaling.png and model.png")
    given = parser.parse_args()
    results = scaling.read(given.results)
    draw_scaling(given.output / "scaling.png", results)
    draw_model(given.output / "model.png", results)
    print(f"{table(results)}\n\n{batching_table(results)}")


if __name__ == "__main__":
    main()
