"""``--token`` of the commands that ask a server."""

from __future__ import annotations

import click

token_option = click.option(
    "--token", envvar="MODEL_SERVER_TOKEN", show_envvar=True, help="Of a login, or an API key, where the server asks."
)
