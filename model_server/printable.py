"""Text of strangers, made fit for a log or a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable

_JSON = json.JSONEncoder(ensure_ascii=False, default=str)


def printable(text: object) -> str:
    r"""Return a text on one line: what Unicode does not call printable is written as Python does, such as ``\x1b``.

    These are control characters, separators of lines, marks that turn the direction of writing, lone surrogates, and
    spaces that are not the usual one.
    """
    return _replaced(str(text), _as_in_python)


def json_line(content: object) -> str:
    """Return JSON on one line, printable as ``printable_json`` has it; what JSON does not know is written as text."""
    return printable_json(_JSON.encode(content))


def printable_json(document: str) -> str:
    r"""Return a JSON document with the same content, and what is not printable as ``\u…``; its line feeds stay.

    A lone surrogate, which no UTF-8 has, becomes the six characters that Python shows it by.
    """
    return "\n".join(_replaced(line, _as_in_json) for line in document.split("\n"))


def _replaced(text: str, replace: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else replace(one) for one in text)


def _as_in_python(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _as_in_json(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "\\" + _as_in_python(character)
    return json.dumps(character)[1:-1]
