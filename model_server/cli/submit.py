"""``model-server submit``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from model_server.cli.token_option import token_option
from model_server.client import files
from model_server.client import submit as client
from model_server.client.submit import Submission
from model_server.printable import json_line


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Queue-proxy to submit to.")
@click.option("--model", help="Model of that server. Without: its only one.")
@token_option
@click.option("--wait/--no-wait", default=True, help="Wait for the results, or print what was accepted and end.")
@click.option("--in-order", is_flag=True, help="Print in the order of the files, not of completion.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Uploads at a time.")
def submit(
    images: tuple[Path, ...],
    url: str,
    model: str | None,
    token: str | None,
    wait: bool,
    in_order: bool,
    parallel: int,
) -> None:
    """Put image files, and the images in folders, into a server's queue and print the results as JSON lines.

    A server that is busy or away is asked again for about a minute, and no image is queued twice by it. The exit
    status is 1 where one image was refused, failed or was cancelled.

    Example: model-server submit --url http://127.0.0.1:8000 --in-order photos/ > results.jsonl
    """
    found = files.find(images)
    submissions = client.submit(client.Queue(url, model, token), found, parallel, wait=wait)
    failed = _print(client.in_order(submissions) if in_order else submissions, len(found))
    if failed:
        click.echo(f"{failed} of {len(found)} have no result.", err=True)
        raise click.exceptions.Exit(1)


def _print(submissions: Iterable[Submission], count: int) -> int:
    """Print each as it comes; return how many are finished without a result."""
    failed = 0
    # Where results go to a terminal they are the progress themselves.
    hidden = count == 1 or sys.stdout.isatty() or not sys.stderr.isatty()
    with click.progressbar(submissions, length=count, label="Submitting", file=sys.stderr, hidden=hidden) as bar:
        for submission in bar:
            failed += submission.finished and not submission.succeeded
            click.echo(json_line(_line(submission)))
    return failed


def _line(submission: Submission) -> dict[str, object]:
    name = {"file": str(submission.file)}
    if submission.refused is not None:
        return {**name, "status": "failed", "error": {"code": "refused", "message": submission.refused}}
    return {**name, **(submission.prediction or {})}
