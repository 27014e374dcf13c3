"""The web page: files served as they are, under a policy that lets nothing else run."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.errors import NotFound

FOLDER = Path(__file__).parent
PAGES = {"/": "index.html", "/report": "report.html", "/my-feedback": "my-feedback.html"}
SUFFIXES = frozenset({".html", ".css", ".js", ".svg"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked again on every visit, and answered with 304: a new release shows at once.
    "Cache-Control": "no-cache",
}


class PageFile:
    """One file of the page, read once."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._headers = {**HEADERS, "ETag": f'"{hashlib.sha256(self._content).hexdigest()[:16]}"'}
        self._media_type = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]

    def response(self, request: Request) -> Response:
        """Return the file, or 304 to a browser that has it."""
        if request.headers.get("If-None-Match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._media_type)


def routes() -> list[Route]:
    """Return the pages and ``/page/{name}``; the latter raises NotFound for a name that is none of their files."""
    files = {path.name: PageFile(path) for path in FOLDER.iterdir() if path.suffix in SUFFIXES}

    def page(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return files[name].response(request)

        return answer

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise NotFound("The page has no such file.")
        return files[name].response(request)

    return [*(Route(path, page(name)) for path, name in PAGES.items()), Route("/page/{name}", asset)]
