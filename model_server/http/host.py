"""Which hosts a server answers for.

A page elsewhere may let its own name lead to this machine (DNS rebinding), and would then be of the same origin as the
server; but its requests still carry that name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.types import Scope

from model_server.config import ENV_PREFIX
from model_server.config.addresses import host_and_port
from model_server.errors import InvalidInput, MisdirectedRequest, shown

OPTIONAL_IN = frozenset({"0.9", "1.0"})
"""Versions of HTTP that know requests without a host."""


class AllowedHosts:
    """Checks ``Host`` of every request; without any host in ``allowed``, only that it is one (RFC 9112, 3.2)."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    def check(self, scope: Scope) -> None:
        """Raise InvalidInput for a ``Host`` that is missing, twice there or malformed, MisdirectedRequest for others'.

        The address that the connection has come to is always allowed: it is no name that could lead elsewhere, and what
        probes of a kubelet ask for. So is a name without a dot, which nobody can have on the internet.
        """
        host = _host(scope)
        if self._allowed and host not in self._allowed and not _is_local(host) and host != _own_address(scope):
            raise MisdirectedRequest(
                f"This server does not answer for the host {shown(host)}; {ENV_PREFIX}ALLOWED_HOSTS says for which."
            )


def _host(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"host"]
    if len(given) > 1:
        raise InvalidInput("The request has several Host fields; there is to be one.")
    if not given and scope["http_version"] not in OPTIONAL_IN:
        raise InvalidInput("The request has no Host field.")
    if not given or not given[0]:
        return ""
    try:
        return host_and_port(given[0].decode("latin-1"))[0]
    except ValueError:
        raise InvalidInput("The Host field is not a host, or a host and a port.") from None


def _is_local(host: str) -> bool:
    return host != "" and not set(host) & {".", ":"}


def _own_address(scope: Scope) -> str | None:
    server = scope.get("server")
    if not server:
        return None
    try:
        address = ipaddress.ip_address(server[0].partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
