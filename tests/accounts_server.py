"""A queue-proxy with the feedback service behind it, and people with and without accounts who send requests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from conftest import environment_with, free_port, running_role
from queue_server import Proxy, running_proxy

SECRET = "a secret of at least thirty-two characters"
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Person:
    """Somebody who comes in by the door."""

    url: str
    id: str = ""
    email: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **options)

    @property
    def token(self) -> str:
        return self.headers["Authorization"].partition(" ")[2]

    def with_token(self, token: str) -> Person:
        return Person(self.url, self.id, self.email, {"Authorization": f"Bearer {token}"})


@dataclass(frozen=True)
class Accounts:
    """Both services, on one database."""

    proxy: Proxy
    feedback_url: str
    feedback: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def stranger(self) -> Person:
        return Person(self.url)

    def register(self, name: str = "Ada", email: str | None = None) -> Person:
        """Make an account and log in."""
        email = email or f"{os.urandom(6).hex()}@example.com"
        document = {"name": name, "email": email, "password": PASSWORD}
        made = httpx.post(f"{self.url}/user/", json=document, timeout=60)
        assert made.status_code == 201, made.text
        return Person(self.url, made.json()["id"], email).with_token(self.login(email).json()["access_token"])

    def login(self, email: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
        form = {"username": email, "password": password}
        return httpx.post(f"{self.url}/login", data=form, headers=headers, timeout=60)

    def administrator(self) -> Person:
        """Make the first administrator as its users do."""
        email = f"admin-{os.urandom(4).hex()}@example.com"
        self.command("user", "create", "--admin", "--email", email, password=PASSWORD)
        return Person(self.url, email=email).with_token(self.login(email).json()["access_token"])

    def command(self, *arguments: str, password: str) -> str:
        """Run `model-server` with a password as its standard input, and return what it printed."""
        command = [sys.executable, "-m", "model_server", *arguments]
        environment = environment_with({"database_url": self.proxy.database_url})
        done = subprocess.run(
            command, env=environment, input=f"{password}\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def running_feedback(log: Path, database_url: str, port: int | None = None, **settings: object) -> Iterator[Any]:
    """Start a feedback service with MODEL_SERVER_ settings, wait until it is ready; yields its URL and its process."""
    port = port or free_port()
    ours = {"database_url": database_url, "feedback_port": port, "log_format": "text", **settings}
    url = f"http://127.0.0.1:{port}"
    with running_role(["feedback"], ours, log, f"{url}/readyz") as process:
        yield url, process


@contextlib.contextmanager
def running_accounts(folder: Path, database_url: str, predictor_url: str, **settings: object) -> Iterator[Accounts]:
    """Start both services; by default nobody is limited, and a removed account is refused at once."""
    shared = {"token_secret": SECRET, "account_cache_seconds": 0}
    limits = dict.fromkeys(
        ("registrations_per_hour", "login_attempts", "login_attempts_per_account", "login_attempts_per_address"),
        100_000,
    )
    proxy_only = {name: settings.pop(name) for name in list(settings) if name in {"trusted_proxies", "cache_seconds"}}
    of_both = [name for name in ("mode", "account_cache_seconds", "image_store") if name in settings]
    both = {**shared, **{name: settings.pop(name) for name in of_both}}
    with (
        running_feedback(folder / "feedback", database_url, **{**both, **limits, **settings}) as (url, process),
        running_proxy(folder / "proxy", database_url, predictor_url, feedback_url=url, **both, **proxy_only) as proxy,
    ):
        yield Accounts(proxy, url, process)
