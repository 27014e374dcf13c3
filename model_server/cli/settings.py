"""``model-server settings``."""

from __future__ import annotations

import click

from model_server import config


@click.command()
def settings() -> None:
    """Print every setting as a Markdown table: variable, default, meaning.

    Example: model-server settings | grep QUEUE
    """
    click.echo(config.markdown_table(config.PredictorSettings))
