"""``model-server settings``."""

from __future__ import annotations

import click

from model_server import config


@click.command()
def settings() -> None:
    """Print the settings of every role as Markdown tables: variable, default, meaning.

    Example: model-server settings | grep QUEUE
    """
    for name, role in config.ROLES.items():
        click.echo(f"### {name}\n\n{config.markdown_table(role)}\n")
