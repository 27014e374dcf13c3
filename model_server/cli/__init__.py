"""The command line: the only place that reads settings and wires the parts together.

Each command imports what it needs when it runs, so that ``--help`` and light commands start at once.
"""

from __future__ import annotations

import sys

import click

from model_server import __version__
from model_server.cli.classify import classify
from model_server.cli.export import export
from model_server.cli.inspect import inspect
from model_server.cli.predictor import predictor
from model_server.cli.settings import settings
from model_server.cli.train import train
from model_server.errors import ModelServerError, SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="model-server")
def group() -> None:
    """Serve image-classification models over the KServe protocols, and make the bundles it serves.

    Example: model-server predictor
    """


for command in (predictor, classify, export, inspect, train, settings):
    group.add_command(command)


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
