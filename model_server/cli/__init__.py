"""The command line: the only place that reads settings and wires the parts together.

Each command is a module of its own name, imported when it is asked for, so that a cold start pays for one alone.
"""

from __future__ import annotations

import importlib
import sys

import click

from model_server import __version__
from model_server.errors import ModelServerError, SettingsError

COMMANDS = ("up", "predictor", "queue-proxy", "migrate", "classify", "submit", "export", "inspect", "train", "settings")


class Commands(click.Group):
    """The commands in ``COMMANDS``, each ``model_server.cli.NAME.NAME`` with ``_`` for ``-``."""

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
    try:
        group(prog_name="model-server")
    except SettingsError as error:
        click.echo(f"model-server: {error}", err=True)
        sys.exit(2)
    except ModelServerError as error:
        click.echo(f"model-server: {error}", err=True)
        sys.exit(1)
