"""A server that answers from a script, for what no server of ours would do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Entry = tuple[int, dict[str, str], bytes] | None
HANGS_UP = {"X-Hang-Up": "without saying so"}
"""Headers of a reply after which the connection is closed, though nothing has announced it."""


class Scripted(BaseHTTPRequestHandler):
    """Answers with one entry a request, the last one for ever; None hangs up after reading the request.

    ``requests`` has method, path and idempotency key of each.
    """

    protocol_version = "HTTP/1.1"
    script: list[Entry]
    requests: list[tuple[str, str, str | None]]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        entry = self.script[min(len(self.requests), len(self.script) - 1)]
        self.requests.append((self.command, self.path, self.headers.get("Idempotency-Key")))
        if entry is None:
            self.close_connection = True
            return
        status, headers, body = entry
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = headers.keys() >= HANGS_UP.keys()

    do_GET = do_POST = answer  # noqa: N815 - the names are http.server's

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def scripted(*script: Entry, handler: type[Scripted] = Scripted) -> Iterator[tuple[str, type[Scripted]]]:
    """Run a server with this script; yields its URL and what notes the requests."""
    own = type("Handler", (handler,), {"script": list(script), "requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), own) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}", own
        listener.shutdown()


def closed_url() -> str:
    """Return a URL at which nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        return f"http://127.0.0.1:{closed.server_port}"
