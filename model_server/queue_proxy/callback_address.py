"""Where a callback may go: a listed host, by http or https, and never a private address that is not listed itself."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from model_server.config import QueueProxySettings
from model_server.errors import InvalidInput, shown

LONGEST_URL = 2000
LOCAL_NAME = "localhost"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: a gateway turns these into the IPv4 address at their end."""


class CallbackAddresses:
    """Checks ``Callback-Url`` against the settings."""

    def __init__(self, settings: QueueProxySettings) -> None:
        self._hosts = {host.lower() for host in settings.callback_hosts}
        self._signed = settings.callback_secret is not None

    def check(self, url: str) -> str | None:
        """Return an acceptable URL, None for none; raises InvalidInput."""
        if not url:
            return None
        if not self._hosts or not self._signed:
            raise InvalidInput("Callbacks are turned off here: no hosts, or no key to sign with, are set.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InvalidInput("Callback-Url is not a URL.") from None
        if parts.scheme not in {"http", "https"} or not host or len(url) > LONGEST_URL or port == 0:
            raise InvalidInput("Callback-Url is an http or https URL of at most 2,000 characters.")
        if parts.username or parts.password:
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
    """Whether an address is reachable from the whole internet; an IPv6 address counts as the IPv4 one inside it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        else:
            parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    return parsed.is_global and not parsed.is_multicast
