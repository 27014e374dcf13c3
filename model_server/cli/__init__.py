"""The command line: the only place that reads settings and wires the parts together.

Each command is a module of its own name, imported when it is asked for, so that a cold start pays for one alone.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from model_server import __version__
from model_server.errors import ModelServerError, SettingsError
from model_server.printable import printable

COMMANDS = (
    "up",
    "predictor",
    "queue-proxy",
    "feedback",
    "migrate",
    "user",
    "classify",
    "submit",
    "rollout",
    "rollback",
    "export",
    "inspect",
    "train",
    "settings",
)

KSERVE_OPTIONS = ("--model_name", "--model_dir", "--http_port", "--grpc_port")
"""What KServe's serving runtimes pass to a container, without a command."""

SIGNALLED = 128
"""Added to the number of the signal that ended a process, it is the exit status that shells report."""


class Commands(click.Group):
    """The commands in ``COMMANDS``, each ``model_server.cli.NAME.NAME`` with ``_`` for ``-``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take an option of KServe's, where a command should be, for one of the predictor's."""
        if args and args[0].partition("=")[0] in KSERVE_OPTIONS:
            args = ["predictor", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if name not in COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"model_server.cli.{module}"), module)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="model-server")
def group() -> None:
    """Serve image-classification models over the KServe protocols, and make the bundles it serves.

    Example: model-server predictor
    """


def main() -> None:
    """Run the command line; what we raise on purpose becomes one line and an exit status."""
    if os.getpid() == 1:
        # The first process of a container ignores what it does not handle, and a command may not have come to it yet.
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(SIGNALLED + number))
    try:
        group(prog_name="model-server")
    except SettingsError as error:
        click.echo(f"model-server: {printable(error)}", err=True)
        sys.exit(2)
    except ModelServerError as error:
        for line in (f"model-server: {error}", *getattr(error, "__notes__", ())):
            click.echo(printable(line), err=True)
        sys.exit(1)
