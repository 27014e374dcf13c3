"""``model-server classify``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from model_server import config
from model_server.cli.token_option import token_option
from model_server.client import files
from model_server.client.files import Answer, Model, Result
from model_server.client.remote import RemoteModel
from model_server.errors import BundleError
from model_server.printable import json_line, printable
from model_server.schema import ScoredClass

CLEAR_LINE = "\r\x1b[K"


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option("--url", help="Server to ask, such as http://127.0.0.1:8080. Without: classify in this process.")
@click.option("--model", help="Model of that server. Without: its only one.")
@token_option
@click.option("--model-dir", type=click.Path(path_type=Path), help="Bundle to load. Without: the model in the package.")
@click.option("--runtime", help="Runtime to load it with: litert, openvino, tensorflow or auto.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to name for an image.")
@click.option("--json", "style", flag_value="json", help="One JSON object a line: file, predictions, model_version.")
@click.option("--csv", "style", flag_value="csv", help="CSV with the best class of each image.")
def classify(
    images: tuple[Path, ...],
    url: str | None,
    model: str | None,
    token: str | None,
    model_dir: Path | None,
    runtime: str | None,
    top: int,
    style: str | None,
) -> None:
    """Classify image files, and the images in folders, here or on a server.

    A file that is no image is reported and the others are classified; the exit status is then 1.

    Example: model-server classify --url http://127.0.0.1:8080 --csv photos/
    """
    if url and (model_dir or runtime):
        raise click.UsageError("--model-dir and --runtime load a model here; a server at --url has its own.")
    if model and not url:
        raise click.UsageError("--model names a model of the server at --url; here --model-dir chooses one.")
    found = files.find(images)
    chosen = _remote(url, model, top, token) if url else _local(model_dir, runtime, top)
    failed = _print_results(files.classify(chosen, found), WRITERS[style](), len(found))
    if failed:
        raise click.exceptions.Exit(1)


def _remote(url: str, model: str | None, top: int, token: str | None) -> Model:
    return RemoteModel(url, model, top, token)


def _local(model_dir: Path | None, runtime: str | None, top: int) -> Model:
    settings = config.load(config.PredictorSettings, model_dir=model_dir, runtime=runtime)
    try:
        from model_server.client.local import LocalModel
    except ModuleNotFoundError as error:
        raise BundleError(
            f"To classify without --url, {error.name} is needed: pip install 'model-server[predictor]'."
        ) from None
    return LocalModel(settings, top)


def _print_results(results: Iterable[Result], write: Callable[[str, Answer], None], count: int) -> int:
    """Print each result as it comes, failures on standard error; return how many failed."""
    failed = 0
    # Where results go to a terminal they are the progress themselves.
    hidden = count == 1 or sys.stdout.isatty() or not sys.stderr.isatty()
    with click.progressbar(results, length=count, label="Classifying", file=sys.stderr, hidden=hidden) as bar:
        for result in bar:
            name = str(result.file)
            if isinstance(result.outcome, str):
                failed += 1
                click.echo(f"{'' if hidden else CLEAR_LINE}{printable(name)}: {printable(result.outcome)}", err=True)
            else:
                write(name, result.outcome)
    if failed and count > 1:
        click.echo(f"{failed} of {count} could not be classified.", err=True)
    return failed


def _text_writer() -> Callable[[str, Answer], None]:
    def write(name: str, answer: Answer) -> None:
        best, *others = answer.prediction["top"]
        further = "".join(f" | {_percent(scored)}" for scored in others)
        click.echo(f"{printable(name)}: {click.style(_percent(best), bold=True)}{further}")

    return write


def _percent(scored: ScoredClass) -> str:
    return f"{printable(scored['label'])} {scored['score']:.1%}"


def _json_writer() -> Callable[[str, Answer], None]:
    def write(name: str, answer: Answer) -> None:
        line = {"file": name, "predictions": [answer.prediction], "model_version": answer.model_version}
        click.echo(json_line(line))

    return write


def _csv_writer() -> Callable[[str, Answer], None]:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["file", "label", "index", "score", "model_version"])

    def write(name: str, answer: Answer) -> None:
        best = answer.prediction
        named = printable(name), printable(best["label"]), best["index"]
        rows.writerow([*named, f"{best['score']:.6f}", printable(answer.model_version)])

    return write


WRITERS = {None: _text_writer, "json": _json_writer, "csv": _csv_writer}
