"""Which header fields travel on: none that is about one connection, or about the framing of a body."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

Fields = list[tuple[bytes, bytes]]

NOT_PASSED_ON = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110, section 7.6.1; the host, which is that of the next server; and the framing, which is up to us there."""
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
"""RFC 9110, sections 5.1 and 5.5."""


def end_to_end(fields: Iterable[tuple[bytes, bytes]], besides: Collection[bytes] = ()) -> Fields:
    """Return the fields that concern who reads the message, names in lower case, without those ``besides``.

    An underscore in a name counts as a hyphen: some servers read it so. What ``Connection`` names is dropped as well.
    """
    named = [(name.lower(), value) for name, value in fields]
    dropped = {*NOT_PASSED_ON, *besides}
    for name, value in named:
        if name == b"connection":
            dropped.update(option.strip() for option in value.lower().split(b","))
    return [(name, value) for name, value in named if name.replace(b"_", b"-") not in dropped]


def is_well_formed(fields: Fields) -> bool:
    """Whether every name and value may be sent on as it is."""
    return all(TOKEN.fullmatch(name) and VALUE.fullmatch(value) for name, value in fields)


def as_text(fields: Fields) -> list[tuple[str, str]]:
    """Return the fields as the HTTP client takes them; it sends text as UTF-8, so that such values stay as they are."""
    return [(name.decode("ascii"), _text(value)) for name, value in fields]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
