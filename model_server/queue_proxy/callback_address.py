"""Where a callback may go: a listed host, by http or https, and never a private address that is not listed itself."""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Network, IPv6Network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from model_server.config import QueueProxySettings
from model_server.config.addresses import host_and_port, split_url
from model_server.errors import InvalidInput, shown

LONGEST_URL = 2000
LOCAL_NAME = "localhost"
NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: a gateway turns these into the IPv4 address at their end."""
GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that is given out of IPv6 to be reached from everywhere. Outside of it are loopback, unique local, link-local and
site-local addresses, multicast, local NAT64 (RFC 8215), and IPv4 addresses that are compatible or translated."""
NOT_GLOBAL_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols, among them Teredo, benchmarks and ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
NOT_GLOBAL_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""IANA's registries of special-purpose addresses (RFC 6890); what Python knows of them differs between its releases."""


class CallbackAddresses:
    """Checks ``Callback-Url`` against the settings."""

    def __init__(self, settings: QueueProxySettings) -> None:
        self._hosts = frozenset(settings.callback_hosts)
        self._signed = settings.callback_secret is not None

    def check(self, url: str) -> str | None:
        """Return an acceptable URL, None for none; raises InvalidInput."""
        if not url:
            return None
        if not self._hosts or not self._signed:
            raise InvalidInput("Callbacks are turned off here: no hosts, or no key to sign with, are set.")
        try:
            parts = split_url(url)
            host, _ = host_and_port(parts.netloc.rpartition("@")[2])
        except ValueError:
            raise InvalidInput("Callback-Url is not a URL.") from None
        if parts.scheme not in {"http", "https"} or len(url) > LONGEST_URL:
            raise InvalidInput("Callback-Url is an http or https URL of at most 2,000 characters.")
        if "@" in parts.netloc:
            raise InvalidInput("Callback-Url has no user name or password in it; callbacks are signed.")
        if host not in self._hosts:
            raise InvalidInput(f"Callback-Url names the host {shown(host)}, which is not on this server's list.")
        return url


class GuardedResolver(AbstractResolver):
    """Resolves a name once and lets the connection go to a public address of it alone.

    What is checked is what is connected to: a name that resolves differently a moment later gains nothing.
    """

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host; raises OSError where any of them is private."""
        found = await self._resolver.resolve(host, port, family)
        if host != LOCAL_NAME and not all(is_public(entry["host"]) for entry in found):
            raise OSError(f"{host} resolves to a private address")
        return found

    async def close(self) -> None:
        """Nothing to close."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Whether an address is reachable from the whole internet; one that is translated counts as the IPv4 one in it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF) if parsed in NAT64 else parsed.ipv4_mapped
        if inner is None:
            return parsed in GLOBAL_UNICAST and not any(parsed in network for network in NOT_GLOBAL_6)
        parsed = inner
    return not any(parsed in network for network in NOT_GLOBAL_4)
