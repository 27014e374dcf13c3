"""``model-server user``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from model_server import config
from model_server.config import FeedbackSettings
from model_server.errors import SettingsError
from model_server.printable import printable


def _of_database(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the accounts are."""
    url = click.option("--database-url", help="PostgreSQL, as postgresql://user:password@host:5432/name.")
    folder = click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Instead: the folder of a `model-server up` that runs."
    )
    return url(folder(command))


def _settings(database_url: str | None, data_dir: Path | None) -> FeedbackSettings:
    if database_url and data_dir:
        raise SettingsError("--database-url and --data-dir both name a database; give one.")
    if data_dir:
        from model_server.up.database import url_of_running

        database_url = url_of_running(data_dir)
    return config.load(FeedbackSettings, database_url=database_url)


@click.group()
def user() -> None:
    """Make accounts, and set passwords, in the database itself.

    Example: model-server user create --admin --email ada@example.com
    """


@user.command()
@click.option("--email", required=True, help="E-mail, which is what one logs in with.")
@click.option("--name", help="Name that is shown. Without: the e-mail's first part.")
@click.option("--admin", is_flag=True, help="May see and remove what is everybody's.")
@_of_database
def create(email: str, name: str | None, admin: bool, **database: Any) -> None:
    """Make an account. The password is asked for on a terminal, and else read from standard input.

    Example: model-server user create --admin --email ada@example.com --data-dir data
    """
    settings = _settings(**database)
    from model_server.accounts import register

    made = asyncio.run(register.create_user(settings, name or email.partition("@")[0], email, _password(), admin))
    click.echo(f"{printable(made.email)} has the account {made.id}{', an administrator' if made.is_admin else ''}.")


@user.command()
@click.option("--email", required=True, help="E-mail of the account.")
@click.option("--revoke-keys", is_flag=True, help="End its API keys too, as after a theft. Without: they stay good.")
@_of_database
def password(email: str, revoke_keys: bool, **database: Any) -> None:
    """Give an account another password, which ends its tokens. It is asked for, or read from standard input.

    Example: model-server user password --email ada@example.com --revoke-keys
    """
    settings = _settings(**database)
    from model_server.accounts import register

    keys = asyncio.run(register.set_password(settings, email, _password(), revoke_keys=revoke_keys))
    click.echo(f"{printable(email)} has a new password. {_what_ends(keys, revoke_keys)}")


def _what_ends(keys: int, revoked: bool) -> str:
    """Say what becomes of tokens and API keys; services remember an account for MODEL_SERVER_ACCOUNT_CACHE_SECONDS."""
    named = f"{keys} API key{'' if keys == 1 else 's'}"
    if not keys:
        return "Its tokens end within seconds; it has no API keys."
    if revoked:
        return f"Its tokens and its {named} end within seconds."
    return f"Its tokens end within seconds. Its {named} stay{'s' if keys == 1 else ''} good: --revoke-keys ends them."


def _password() -> str:
    if sys.stdin.isatty():
        given: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return given
    return sys.stdin.readline().rstrip("\r\n")
