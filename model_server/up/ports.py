"""Ports, tried before anything is started."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from model_server.config import ENV_PREFIX
from model_server.errors import SettingsError

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
"""Where a server that listens at every address is reached from this machine."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Port:
    """Where a service is to listen, and the option and setting that choose another place."""

    host: str
    number: int
    setting: str
    option: str


def check(ports: Sequence[Port]) -> None:
    """Raise SettingsError that names every port that cannot be had, and how to change it."""
    refused = [sentence for port in ports if (sentence := _try(port))]
    if refused:
        raise SettingsError(" ".join(refused))


def reachable(host: str) -> str:
    """Return the host as it stands in a URL that reaches a server listening there from this machine."""
    host = EVERYWHERE.get(host, host)
    return f"[{host}]" if ":" in host else host


def names(host: str) -> tuple[str, ...]:
    """Return the hosts that a server listening there is asked for by default; none: by any, as it is open to all."""
    return () if host in EVERYWHERE else tuple(dict.fromkeys((*LOOPBACK_NAMES, host.partition("%")[0])))


def free(host: str) -> int:
    """Return a port of ``host`` that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        number: int = listener.getsockname()[1]
        return number


def _try(port: Port) -> str | None:
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    try:
        socket.create_server((port.host, port.number), family=family).close()
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        return (
            f"{port.host}:{port.number} {reason}; choose another by {port.option} "
            f"or {ENV_PREFIX}{port.setting.upper()}."
        )
    return None
