"""What hosts and URLs may be: one reader for settings and for what a request says."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

MOST_HOST = 253
MOST_PORT = 65535
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?P<colon>:(?P<port>[0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_URL = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
"""RFC 3986, section 2: `urlsplit` passes over characters that no URL has."""


def host_and_port(text: str) -> tuple[str, int | None]:
    """Return a host in its one spelling, and the port, of ``host``, ``host:port`` or ``[IPv6]:port``.

    The spelling is lower case, without a trailing dot, an IPv6 address in its shortest form and without brackets, and
    one that stands for an IPv4 address as that. Raises ValueError for anything else, with a user name for one.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("not a host, or a host and a port")
    return _host(found["host"]), _port(found["port"]) if found["colon"] else None


def split_url(text: str) -> SplitResult:
    """Return the parts of a URL whose host and port can be asked; raises ValueError for what is none.

    A user name, a query and a fragment are for the caller to judge.
    """
    if not _URL.fullmatch(text):
        raise ValueError("not a URL")
    parts = urlsplit(text)
    authority = parts.netloc.rpartition("@")[2]
    host_and_port(authority)
    if authority.endswith(":"):
        raise ValueError("no port after the colon")
    return parts


def _host(text: str) -> str:
    if text.startswith("["):
        address = ipaddress.IPv6Address(text[1:-1])
        return str(address.ipv4_mapped or address)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MOST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    # Whatever ends in a number is an address to those who connect (WHATWG URL, 3.5), in spellings without end.
    return str(ipaddress.IPv4Address(name)) if _NUMBER.fullmatch(labels[-1]) else name


def _port(text: str) -> int | None:
    if text and not 1 <= int(text) <= MOST_PORT:
        raise ValueError("not a port")
    return int(text) if text else None


def _service_url(text: str) -> str:
    try:
        parts = split_url(text)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"http", "https"} or any(mark in text for mark in "@?#"):
        raise PydanticCustomError(
            "url", "a URL is http or https, a host, and perhaps a port and a path, such as http://predictor:8080"
        )
    return text


def _host_name(text: str) -> str:
    bracketed = f"[{text}]" if ":" in text and "[" not in text else text
    try:
        host, port = host_and_port(bracketed)
    except ValueError:
        host, port = "", None
    if not host or port or bracketed.endswith(":"):
        raise PydanticCustomError("host", "a host is a name or an address, without a port, such as models.example.com")
    return host


ServiceUrl = Annotated[str, AfterValidator(_service_url)]
"""Where a service is: no user name, query or fragment."""
HostName = Annotated[str, AfterValidator(_host_name)]
"""A host in its one spelling."""
