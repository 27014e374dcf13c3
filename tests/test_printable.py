"""What a stranger calls things reaches no log and no terminal as it is: no line is forged, none is lost."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from conftest import Server
from model_server.errors import InvalidInput
from model_server.printable import json_line, printable, printable_json
from model_server.telemetry import JSONFormatter, TextFormatter
from model_server.up import announcement
from pictures import draw, encode
from scripted_server import scripted
from system import COMMAND

UNPRINTABLE = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),
    *"\u2028\u2029\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    *"\ud800\udbff\udc80\udfff\ufeff\u00ad\U000e0001\ufff9",
]
FORGED = "12:00:00 error   forged"
LINE = re.compile(r"\d\d:\d\d:\d\d (debug|info|warning|error|critical) ")


def record(message: str, *values: object, error: Exception | None = None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(
        "test", logging.INFO, "", 1, message, values, (type(error), error, None) if error else None
    )
    vars(made).update(extra)
    return made


def is_clean(line: str) -> bool:
    return line.isprintable() and line.encode().decode() == line


@pytest.mark.parametrize("one", UNPRINTABLE, ids=lambda one: f"{ord(one):x}")
def test_no_formatter_lets_a_character_through_that_is_not_printable(one: str) -> None:
    hostile = f"a{one}{FORGED}"
    made = record("path %s", hostile, label=hostile, more={hostile: [hostile]}, error=ValueError(hostile))
    first, *stack = TextFormatter().format(made).split("\n")
    assert is_clean(first)
    assert all(is_clean(line) and line.startswith("    ") for line in stack)
    line = JSONFormatter().format(made)
    assert is_clean(line)
    known = json.loads(line)
    shown = printable(one) if "\ud800" <= one <= "\udfff" else one
    assert known["label"] == known["message"].removeprefix("path ") == f"a{shown}{FORGED}"


def test_what_is_printable_stays_as_it_is() -> None:
    for text in ("Käse, 面包 und 🥐", "C:\\new", '100 % "sure"', ""):
        assert printable(text) == text
        assert json.loads(json_line(text)) == text
    assert printable_json('{\n "é": 1\n}') == '{\n "é": 1\n}'


@pytest.mark.parametrize("value", ["cat  status=200", 'cat" status="200', "a=b", "", "two words"])
def test_a_field_of_the_text_format_cannot_be_taken_for_two(value: str) -> None:
    line = TextFormatter().format(record("asked", label=value, request_id="r"))
    fields = dict(part.split("=", 1) for part in shlex.split(line.partition("  label")[2].join(["label", ""])))
    assert fields == {"label": value, "request_id": "r"}


def test_a_forged_line_in_the_text_of_an_exception_is_indented() -> None:
    error = InvalidInput(f"bad\n{FORGED}\r\n{FORGED}\x85{FORGED}")
    lines = TextFormatter().format(record("failed", error=error)).splitlines()
    assert [bool(LINE.match(line)) for line in lines] == [True] + [False] * (len(lines) - 1)
    assert sum(line.strip().startswith(FORGED) for line in lines) == 2, "a line feed in a stack is one"


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models/%0a12:00:00%20error%20forged",
        b"/%1b%5b2J%c2%9b2J%7f",
        b"/%e2%80%a8forged%e2%80%ae",
        b"/%ed%b2%80%ff",
        b"/x%20%20status=200%20client=10.0.0.1",
        b"/x\xc2\x9b2J",
    ],
)
def test_no_path_forges_a_line_of_a_running_service(server: Server, target: bytes) -> None:
    before = len(server.log.read_bytes())
    head = b"GET %b HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\x9bb\r\nConnection: close\r\n\r\n" % target
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(head)
        while connection.recv(65536):
            pass
    written = server.log.read_bytes()[before:].decode()
    for line in written.splitlines():
        assert is_clean(line)
        assert line.startswith("{")
        json.loads(line)


HOSTILE = f"cat\x1b]0;owned\x07\n{FORGED}\u2028\u202e\x9b2J\x7f"


@pytest.mark.parametrize("style", [(), ("--json",), ("--csv",)])
def test_classify_shows_no_terminal_what_a_server_or_a_file_name_says_to_it(
    tmp_path: Path, style: tuple[str, ...]
) -> None:
    scored = {"label": HOSTILE, "index": 0, "score": 0.5}
    answer = json.dumps({"predictions": [{**scored, "top": [scored, scored]}]}).encode()
    files = [tmp_path / os.fsdecode(b"a\xff\x1b[2J\n.png"), tmp_path / "b.png"]
    for file in files:
        file.write_bytes(encode(draw(), "PNG"))
    (tmp_path / "c\x1b.png").write_bytes(b"")
    (tmp_path / "c\x1b.png").chmod(0)
    listed = (200, {}, json.dumps({"models": ["m"]}).encode())
    with scripted(listed, (200, {"Model-Version": "1"}, answer)) as (url, _):
        asked = [COMMAND, "classify", "--url", url, *style, *files, tmp_path / "missing\x1b[2J.png"]
        done = subprocess.run(asked, capture_output=True, timeout=60, check=False)
    out, error = done.stdout.decode(), done.stderr.decode()
    assert all(is_clean(line) for line in [*out.split("\n"), *error.split("\n")]), (out, error)
    assert not any(line.startswith(FORGED) for line in out.split("\n"))
    assert out.count("\n") == (3 if style == ("--csv",) else 2)
    if style == ("--json",):
        assert [json.loads(line)["predictions"][0]["label"] for line in out.splitlines()] == [HOSTILE] * 2
    if style == ("--csv",):
        assert [row["label"] for row in csv.DictReader(io.StringIO(out))] == [printable(HOSTILE)] * 2
    assert done.returncode == 1
    assert "missing\\x1b[2J.png" in error


@pytest.mark.parametrize("command", ["classify", "submit"])
def test_a_refusal_is_one_line_whatever_the_server_says(tmp_path: Path, command: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encode(draw(), "PNG"))
    with scripted((404, {}, json.dumps({"error": HOSTILE}).encode())) as (url, _):
        asked = [COMMAND, command, "--url", url, "--model", "m", file]
        done = subprocess.run(asked, capture_output=True, timeout=60, check=False)
    lines = done.stderr.decode().removesuffix("\n").split("\n")
    assert len(lines) == 1
    assert is_clean(lines[0])
    assert "cat\\x1b]0;owned\\x07\\n" in lines[0]


def test_the_announcement_holds_no_command_of_a_bundles_making() -> None:
    picture = Path("bundle/golden/a.png';touch owned;'\n\x1b[2J")
    text = announcement.text("http://127.0.0.1:8000", HOSTILE, picture, with_token=False)
    assert all(is_clean(line) for line in text.split("\n"))
    curl = next(line for line in text.split("\n") if line.startswith("  curl"))
    words = shlex.split(curl)
    assert words[:3] == ["curl", "-s", "-H"]
    assert words[4] == "--data-binary"
    assert len(words) == 7, words
