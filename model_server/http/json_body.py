"""JSON without the traps of JSON: what this reads, every part can write again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NoReturn

import orjson

from model_server.errors import InvalidInput, ModelServerError, PayloadTooLarge, shown

MOST_DEPTH = 64
"""Lists and objects within each other. Ours have less than ten; orjson writes 254."""
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**64 - 1
"""What orjson writes, and PostgreSQL keeps exactly."""
MOST_LOOKED_AT = 10_000
"""Values that are looked at one by one for the place of a wrong one, which takes a hundred times as long."""
MOST_REPLY_VALUES = 10_000_000
FEW = 16
CONTAINERS = (list, dict)
CONTAINER_VALUES = 3
"""Each list or object counts as so many values: a pixel is one of three numbers."""

Refusal = type[ModelServerError]


def parse(body: bytes, max_values: int, refusal: Refusal = InvalidInput) -> dict[str, Any]:
    """Return a JSON object (RFC 8259); raises InvalidInput for anything else, and for a key that stands twice.

    Raises PayloadTooLarge where it has more than ``max_values`` elements, and ``refusal`` for a value that cannot be
    kept: text with half a character or NUL, an integer beyond 64 bit, a float beyond a double's, more than 64 levels.
    """
    document = parse_any(body, max_values, refusal)
    if not isinstance(document, dict):
        raise InvalidInput("The body is not a JSON object.")
    return document


def parse_any(body: bytes, max_values: int, refusal: Refusal = InvalidInput) -> Any:
    """Return any JSON value; raises as ``parse`` does."""
    if len(body) > max_values and _most_of_one_kind(body) >= max_values:
        raise PayloadTooLarge(
            f"The JSON has more than {max_values:,} values; send the image encoded, or as a binary tensor."
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        _count_keys(_read_slowly(body), refusal, thorough=True)
        raise InvalidInput("The body is not JSON.") from None
    keys = _count_keys(document, refusal, thorough=b"\\" in body and rb"\u0000" in body)
    if _has_more(body, b":", keys):  # orjson lets the last of equal keys win
        _read_slowly(body)
    return document


def parse_reply(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object that another server has sent; None for what ``parse`` refuses."""
    try:
        return parse(body, MOST_REPLY_VALUES)
    except ModelServerError:
        return None


def _most_of_one_kind(body: bytes) -> int:
    """Return the elements that follow another, or the lists and objects, which take as much work as several numbers."""
    return max(body.count(b","), CONTAINER_VALUES * (body.count(b"]") + body.count(b"}")))


def _count_keys(document: Any, refusal: Refusal, *, thorough: bool) -> int:
    """Return the number of keys of all objects; raises ``refusal``, with its place, where a value cannot be kept.

    Level by level, so that a million numbers are looked at by C. Text and integers, of which orjson takes only those
    that it can write, but for NUL, are looked at where it is to be ``thorough``.
    """
    keys, depth, level = 0, 0, [document]
    while True:
        kinds = set(map(type, level))
        if problem := _number_problem(level, kinds & ({int, float} if thorough else {float})):
            raise refusal(f"The JSON holds {problem}{_where(document)}.")
        if thorough and (problem := _text_problem("".join(_texts(level)))):
            raise refusal(f"The JSON holds {problem}{_where(document)}.")
        if kinds.isdisjoint(CONTAINERS):
            return keys
        if depth == MOST_DEPTH:
            raise refusal(f"The JSON is nested too deeply: more than {MOST_DEPTH} lists and objects in each other.")
        keys += sum(len(value) for value in level if type(value) is dict) if dict in kinds else 0
        level = list(chain.from_iterable(_children(value) for value in level if type(value) in CONTAINERS))
        depth += 1


def _children(value: Any) -> Iterable[Any]:
    return value if type(value) is list else value.values()


def _texts(level: list[Any]) -> Iterator[str]:
    for value in level:
        if type(value) is str:
            yield value
        elif type(value) is dict:
            yield from value


def _number_problem(values: Sequence[Any], kinds: set[type[Any]]) -> str | None:
    """Return what is wrong with the numbers of these kinds: orjson makes a float of an integer beyond 64 bit."""
    for kind in kinds:
        numbers: list[float] = [value for value in values if type(value) is kind]
        least = LEAST_INTEGER + 1 if kind is float else LEAST_INTEGER
        if not (least <= min(numbers) and max(numbers) <= MOST_INTEGER):
            return "a number out of range (64 bit)"
    return None


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return "a character that cannot be kept (NUL)"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a character that cannot be kept (a lone surrogate)"
    return None


def _where(document: Any) -> str:
    """Return the place of the first value that cannot be kept, if it is among those that are looked at one by one."""
    waiting: deque[tuple[Any, tuple[int | str, ...]]] = deque([([document], ())])
    left = MOST_LOOKED_AT
    while waiting:
        container, path = waiting.popleft()
        for key, value in islice(container.items() if type(container) is dict else enumerate(container), left):
            left -= 1
            if _problem(value) or _problem(key):
                return f" at {place((*path, key)[1:])}"
            if type(value) in CONTAINERS:
                waiting.append((value, (*path, key)))
    return ""


def _problem(value: Any) -> str | None:
    return _text_problem(value) if type(value) is str else _number_problem([value], {type(value)} & {int, float})


def _has_more(body: bytes, character: bytes, most: int) -> bool:
    """Whether a character stands in ``body`` more than ``most`` times; looking for one is faster than counting."""
    if most > FEW:
        return body.count(character) > most
    place = -1
    for _ in range(most + 1):
        place = body.find(character, place + 1)
        if place < 0:
            return False
    return True


def _read_slowly(body: bytes) -> Any:
    """Return what Python's own reader makes of it; raises InvalidInput that says where it is wrong."""
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The body is not UTF-8: byte {error.start:,}.") from None
    except RecursionError:
        raise InvalidInput("The JSON is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error.msg} at character {error.pos:,}.") from None
    except ValueError:  # an integer of more digits than Python converts
        raise InvalidInput("The JSON holds a number that is out of range.") from None


def place(path: tuple[int | str, ...]) -> str:
    """Return where a value stands, such as ``inputs[0].datatype``."""
    if not path:
        return "the top"
    named = "".join(f"[{step}]" if isinstance(step, int) else f".{_name(step)}" for step in path)
    return named.removeprefix(".")


def _name(key: str) -> str:
    return key if key.isascii() and key.isidentifier() and len(key) <= FEW * 2 else shown(key)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidInput(f"The JSON has the key {shown(twice)} twice in one object.")
    return document


def _no_constant(name: str) -> NoReturn:
    raise InvalidInput(f"The JSON holds {name}, which is not a JSON number.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)
