"""In front of every prediction: who asks, whether they may now, and what they took in the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.accounts.authentication import Authentication
from model_server.accounts.caller import Caller
from model_server.config import QueueProxySettings
from model_server.http.routing import Application
from model_server.queue_proxy.metering import Metering
from model_server.queue_proxy.split import take_place
from model_server.queue_proxy.throttle import Throttle
from model_server.store.metering import Usage

CALLER, USED = "model_server.caller", "model_server.used"
"""In the scope of an admitted request: its Caller, and the Usage that grows while it is answered."""


class Admission:
    """Lets requests in, and writes down what they took."""

    def __init__(
        self,
        settings: QueueProxySettings,
        authentication: Authentication,
        throttle: Throttle,
        metering: Metering,
    ) -> None:
        self._settings = settings
        self._authentication = authentication
        self._throttle = throttle
        self._metering = metering

    def guard(self, app: ASGIApp, *, users_only: bool = False) -> ASGIApp:
        """Return an application whose every request is admitted first.

        It raises Unauthorized or TooManyRequests to those who are not.
        """

        async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
            identify = self._authentication.user if users_only else self._authentication.admit
            caller = await identify(scope)
            limits = await self._throttle.admit(scope, caller)
            used = Usage(requests=1)
            scope[CALLER], scope[USED] = caller, used
            take_place(scope, self._settings, caller.user_id)
            try:
                await app(scope, _counted(receive, used), _with_headers(send, limits))
            finally:
                self._metering.used(caller.user_id, used)
                await self._throttle.charge(scope, caller, used.images)

        return Application(admitted)

    def handler(self, handle: Callable[[Request], Awaitable[Response]], *, users_only: bool = False) -> ASGIApp:
        """Return the same for a function from request to reply."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = await handle(Request(scope, receive, send))
            await response(scope, receive, send)

        return self.guard(answer, users_only=users_only)


def caller_of(scope: Scope) -> Caller:
    """Return who sends an admitted request."""
    caller: Caller = scope[CALLER]
    return caller


def used_by(scope: Scope) -> Usage:
    """Return what an admitted request has taken so far; of any other, what nobody looks at."""
    used: Usage = scope.get(USED) or Usage()
    return used


def _counted(receive: Receive, used: Usage) -> Receive:
    async def counted() -> Message:
        message = await receive()
        used.bytes += len(message.get("body", b""))
        return message

    return counted


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    if not headers:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
