"""Whose address a request comes from, behind proxies that say so."""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

FORWARDED_FOR = "X-Forwarded-For"
UNKNOWN = "unknown"
NETWORK_BITS = 64
"""What one household or machine has of IPv6: an address of its own for each request would escape any count."""


def client_address(scope: Scope, trusted_proxies: int) -> str:
    """Return the address that the first of so many trusted proxies saw; without any, the connection's.

    Each proxy appends whom it was asked by, so that only the last entries are beyond the caller's invention.
    """
    peer = scope.get("client")
    given = _forwarded_for(scope) if trusted_proxies else ""
    chain = [*(part.strip() for part in given.split(",") if part.strip()), peer[0] if peer else UNKNOWN]
    return chain[-1 - min(trusted_proxies, len(chain) - 1)]


def from_neighbour(scope: Scope) -> str:
    """Return the address that a proxy on this machine names; of anybody else the connection's."""
    peer = scope.get("client")
    return client_address(scope, 1 if peer and is_loopback(peer[0]) else 0)


def counted_as(address: str) -> str:
    """Return what requests from an address are counted under: of IPv6 the network, of anything odd the text."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, ipaddress.IPv6Address):
        return str(known.ipv4_mapped or ipaddress.ip_network((known, NETWORK_BITS), strict=False))
    return str(known)


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _forwarded_for(scope: Scope) -> str:
    """Return all lines of the header: a proxy may append a line of its own instead of to the last."""
    wanted = FORWARDED_FOR.lower().encode()
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == wanted)
