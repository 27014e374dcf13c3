"""The one error hierarchy: each class carries the HTTP status that its callers see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

LONGEST_SHOWN = 64
"""Characters of what is repeated of a request."""
FIRST_SHOWN = 4
"""Elements of a list that are."""


def shown(value: object) -> str:
    """Return a value of a request as it may stand in a sentence or in a log: quoted, escaped, cut at 64 characters.

    Looks at no more of it than it shows, whatever its size.
    """
    if isinstance(value, list | tuple):
        more = ", …" if len(value) > FIRST_SHOWN else ""
        return _cut(f"[{', '.join(_written(one) for one in value[:FIRST_SHOWN])}{more}]")
    return _cut(_written(value))


def _cut(text: str) -> str:
    if len(text) <= LONGEST_SHOWN:
        return text
    quote = text[0] if text[0] in "'\"" else ""
    return f"{text[: LONGEST_SHOWN - 2]}…{quote}"


def _written(value: object) -> str:
    if isinstance(value, str):
        return repr(value[:LONGEST_SHOWN])
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= LONGEST_SHOWN else f"a number of {value.bit_length():,} bits"
    return repr(value) if value is None or isinstance(value, float) else type(value).__name__


class ModelServerError(Exception):
    """Base of every error we raise; the message is a sentence fit for the caller's eyes."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def headers(self) -> dict[str, str]:
        """Return what the reply says besides the status and the message."""
        return {}


class InvalidInput(ModelServerError):
    """The request is malformed, or asks for something that does not exist in it."""

    status = HTTPStatus.BAD_REQUEST


class DamagedImage(InvalidInput):
    """The data begins as an image and cannot be decoded."""


class TooCostly(InvalidInput):
    """Decoding the image takes more time or memory than one image may; it would not fare better later."""


class Unauthorized(ModelServerError):
    """The caller has not said, or not proven, who they are."""

    status = HTTPStatus.UNAUTHORIZED

    @property
    def headers(self) -> dict[str, str]:
        """Name the scheme that is understood (RFC 6750)."""
        return {"WWW-Authenticate": "Bearer"}


class TooManyRequests(ModelServerError):
    """The caller has used up what is allowed in a time."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, retry_after_seconds: float, limits: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.limits = limits or {}

    @property
    def headers(self) -> dict[str, str]:
        """Say when the next request will be taken, and what the limits are."""
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_seconds))), **self.limits}


class NotFound(ModelServerError):
    """No such model, version or resource."""

    status = HTTPStatus.NOT_FOUND


class Forbidden(ModelServerError):
    """The operation exists and is closed: here, or to this caller."""

    status = HTTPStatus.FORBIDDEN


class NotSupported(ModelServerError):
    """The protocol has the operation and this server does not."""

    status = HTTPStatus.NOT_IMPLEMENTED


class Conflict(ModelServerError):
    """The resource is in a state that does not allow the operation."""

    status = HTTPStatus.CONFLICT


class Gone(ModelServerError):
    """The resource was there and is removed for good."""

    status = HTTPStatus.GONE


class MisdirectedRequest(ModelServerError):
    """The request is for another host than this server answers for."""

    status = HTTPStatus.MISDIRECTED_REQUEST


class Unprocessable(ModelServerError):
    """A field breaks a rule, or the request contradicts one that was accepted before."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class BadGateway(ModelServerError):
    """The server behind this one broke off or answered nonsense."""

    status = HTTPStatus.BAD_GATEWAY


class GatewayTimeout(ModelServerError):
    """The server behind this one did not answer in time."""

    status = HTTPStatus.GATEWAY_TIMEOUT


class RequestTimeout(ModelServerError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class PayloadTooLarge(ModelServerError):
    """The body is larger than the server takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(ModelServerError):
    """The body is of a type that the route does not read."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Unavailable(ModelServerError):
    """The server cannot answer now; the same request may succeed later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class NotReady(Unavailable):
    """The model is not loaded, or failed its golden check."""


class Overloaded(Unavailable):
    """The queue is full."""


class DatabaseError(ModelServerError):
    """Base of what PostgreSQL may answer with; a note, for the log alone, says what it was."""


class DatabaseUnavailable(DatabaseError, Unavailable):
    """PostgreSQL does not answer, or cannot do for now what is asked; ``sqlstate`` says why, where it has said."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseRefused(DatabaseError):
    """PostgreSQL refused what it should have taken: a mistake of ours."""


class UnstorableValue(DatabaseError, InvalidInput):
    """The request holds what PostgreSQL cannot hold, and nobody has found it before."""


class ChangedMeanwhile(DatabaseError, Conflict):
    """What the request refers to was removed, or made by somebody else, in the same moment."""


class BundleError(NotReady):
    """A model bundle is incomplete, altered, or disagrees with its golden images."""


class ExportError(ModelServerError):
    """A model could not be turned into a bundle that agrees with it."""


class SettingsError(ModelServerError):
    """A setting has no valid value; the message names its environment variable."""
