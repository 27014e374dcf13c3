"""Documents that are valid but for one to three places: another kind, another size, one more, one less, deeper."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn


class Raw(str):
    """Text that stands in the document as it is."""

    __slots__ = ()


def nested(depth: int) -> Raw:
    return Raw("[" * depth + "]" * depth)


JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2,
    1.5,
    -0.0,
    5e-324,
    1e300,
    2**31,
    2**63,
    2**64,
    -(10**30),
    "",
    "x",
    "serving_default",
    "\0",
    "a\ud800",
    "\u2028\x1b[0m",
    "data:,",
    "QQ==",
    "é" * 5000,
    [],
    {},
    [[]],
    [True],
    ["uint8"],
    [1, "1", None],
    [0] * 2000,
    [{}] * 200,
    {"a": 1},
    {"b64": 5},
    {"\ud800": 1},
    {"\0": []},
    {"x" * 5000: 1},
    Raw("1e999"),
    Raw("-1E+400"),
    Raw("NaN"),
    Raw("-Infinity"),
    Raw("01"),
    Raw("9" * 5000),
    Raw('{"a": 1, "a": 2}'),
    Raw('"\\u0000"'),
    Raw('"\\udc00\\ud800"'),
    Raw('"\xff"'),
    Raw(""),
    nested(65),
    nested(255),
    nested(2000),
]


def written(value: Any) -> str:
    """Return JSON, raw text as it is; names and texts in ASCII, so that half a character is an escape."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a document: its container and its key there."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    return [found for key, one in items for found in [(value, key), *places(one)]]


def replace(container: Any, key: Any, junk: Any) -> None:
    container[key] = junk


def drop(container: Any, key: Any, _junk: Any) -> None:
    del container[key]


def repeat(container: Any, key: Any, _junk: Any) -> None:
    container[key] = [container[key]] * 20


def wrap(container: Any, key: Any, _junk: Any) -> None:
    container[key] = {"wrapped": [container[key]]}


def add(container: Any, _key: Any, junk: Any) -> None:
    if isinstance(container, dict):
        container[junk if isinstance(junk, str) and not isinstance(junk, Raw) else "more"] = junk
    else:
        container.append(junk)


@st.composite
def mutated(draw: DrawFn, document: Any) -> bytes:
    """Return a document with one to three mutations, as it is sent."""
    holder = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        if found := places(holder):
            container, key = draw(st.sampled_from(found))
            mutation = draw(st.sampled_from([replace, replace, replace, drop, repeat, wrap, add]))
            mutation(container, key, copy.deepcopy(draw(st.sampled_from(JUNK))))
    return written(holder[0] if holder else None).encode("latin-1", "backslashreplace")
