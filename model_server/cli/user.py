"""``model-server user``."""

from __future__ import annotations

import asyncio
import sys

import click

from model_server import config


@click.group()
def user() -> None:
    """Make accounts, and set passwords, in the database itself.

    Example: model-server user create --admin --email ada@example.com
    """


@user.command()
@click.option("--email", required=True, help="E-mail, which is what one logs in with.")
@click.option("--name", help="Name that is shown. Without: the e-mail's first part.")
@click.option("--admin", is_flag=True, help="May see and remove what is everybody's.")
@click.option("--database-url", help="PostgreSQL, as postgresql://user:password@host:5432/name.")
def create(email: str, name: str | None, admin: bool, database_url: str | None) -> None:
    """Make an account. The password is asked for on a terminal, and else read from standard input.

    Example: model-server user create --admin --email ada@example.com < password.txt
    """
    settings = config.load(config.FeedbackSettings, database_url=database_url)
    from model_server.accounts import register

    made = asyncio.run(register.create_user(settings, name or email.partition("@")[0], email, _password(), admin))
    click.echo(f"{made.email} has the account {made.id}{', an administrator' if made.is_admin else ''}.")


@user.command()
@click.option("--email", required=True, help="E-mail of the account.")
@click.option("--database-url", help="PostgreSQL, as postgresql://user:password@host:5432/name.")
def password(email: str, database_url: str | None) -> None:
    """Give an account another password, which ends its tokens. It is asked for, or read from standard input.

    Example: model-server user password --email ada@example.com
    """
    settings = config.load(config.FeedbackSettings, database_url=database_url)
    from model_server.accounts import register

    asyncio.run(register.set_password(settings, email, _password()))
    click.echo(f"{email} has a new password.")


def _password() -> str:
    if sys.stdin.isatty():
        given: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return given
    return sys.stdin.readline().rstrip("\r\n")
