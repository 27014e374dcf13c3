"""A server answers for its own hosts alone, where it is told them: a page elsewhere gets in by no name of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from accounts_server import running_feedback
from conftest import Server, cloned_database, running_server
from model_server import config
from model_server.config import QueueProxySettings, UpSettings
from model_server.config.addresses import HostName, host_and_port
from model_server.errors import SettingsError
from model_server.up import ports
from queue_server import StubPredictor, answers, running_proxy

ALLOWED = ["models.example.com", "Localhost.", "[::1]", "198.51.100.7"]
MALFORMED = [
    "user@models.example.com",
    "user:secret@models.example.com",
    "models.example.com:0",
    "models.example.com:65536",
    "models.example.com:123456",
    "models.example.com:8o",
    "models.example.com:-1",
    "models.example.com:80:80",
    "models..example.com",
    ".models.example.com",
    "models.example.com..",
    "models.example.com/",
    "models.example.com?x",
    "models.example.com, models.example.com",
    "models example.com",
    "models.example.com\x0bx",
    "mod\xe9ls.example.com",
    "http://models.example.com",
    "::1",
    "[::1",
    "::1]",
    "[::1]x",
    "[models.example.com]",
    "[::1%25lo]",
    "[1::2::3]",
    "1.2.3.4.5",
    "127.1",
    "0x7f.0.0.1",
    "2130706433",
    "127.0.0.01",
    ":8000",
    "a" * 64 + ".example.com",
    ".".join(["a" * 60] * 5),
]
OWN = [
    "models.example.com",
    "models.example.com:1",
    "models.example.com:65535",
    "models.example.com:",
    "MODELS.Example.COM",
    "models.example.com.",
    "models.example.com.:8000",
    "localhost",
    "localhost:8000",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]",
    "198.51.100.7:80",
    "[::ffff:198.51.100.7]",
    "a-machine-nearby:8000",
    "127.0.0.1",  # where the connection has come to, as a kubelet's probe of a pod's address does
]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "models.example.com.evil.example",
    "evil-models.example.com",
    "example.com",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "127.0.0.2",
    "0.0.0.0",
    "[::]",
    "[::ffff:127.0.0.2]",
    "10.0.0.1",
    "",
]


def ask(url: str, *hosts: str, version: str = "1.1", path: str = "/healthz") -> tuple[int, str]:
    """Return status and error of a request with these lines of ``Host``."""
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    head = f"GET {path} HTTP/{version}\r\n{lines}Connection: close\r\n\r\n".encode("latin-1")
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(head)
        reply = b""
        while more := connection.recv(65536):
            reply += more
    status, _, rest = reply.partition(b"\r\n")
    body = rest.partition(b"\r\n\r\n")[2]
    return int(status.split()[1]), json.loads(body).get("error", "") if body.startswith(b"{") else ""


@pytest.fixture(scope="module")
def proxy(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("host")
    with (
        StubPredictor(answers()) as stub,
        cloned_database(postgres) as url,
        running_proxy(folder / "proxy", url, stub.url, allowed_hosts=json.dumps(ALLOWED)) as running,
    ):
        yield running.url


@pytest.mark.parametrize("host", OWN)
def test_own_hosts_are_answered_in_every_spelling(proxy: str, host: str) -> None:
    assert ask(proxy, host) == (200, "")


@pytest.mark.parametrize("host", FOREIGN)
def test_another_host_is_refused_with_the_setting(proxy: str, host: str) -> None:
    status, error = ask(proxy, host)
    assert status == 421
    assert "MODEL_SERVER_ALLOWED_HOSTS" in error
    assert ask(proxy, host, path="/v1/models")[0] == 421, "whatever the route"


@pytest.mark.parametrize("host", MALFORMED)
def test_what_is_no_host_is_refused(proxy: str, server: Server, host: str) -> None:
    assert ask(proxy, host)[0] == 400
    assert ask(server.url, host, path="/v2/health/live")[0] == 400, "also where any host is allowed"


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        ([], "1.1", 400),
        ([], "1.0", 421),
        (["localhost"], "1.0", 200),
        (["localhost", "localhost"], "1.1", 400),
        (["localhost", "evil.example"], "1.1", 400),
        (["evil.example", "localhost"], "1.0", 400),
    ],
)
def test_one_host_is_one_host(proxy: str, hosts: list[str], version: str, status: int) -> None:
    assert ask(proxy, *hosts, version=version)[0] == status


@pytest.mark.parametrize("host", [*OWN, *FOREIGN])
def test_a_role_by_itself_answers_for_any(server: Server, host: str) -> None:
    assert ask(server.url, host, path="/v2/health/live")[0] == 200


def test_predictor_and_feedback_check_it_too(tmp_path: Path, postgres: str) -> None:
    allowed = json.dumps(["models.example.com"])
    with (
        cloned_database(postgres) as url,
        running_server(tmp_path / "predictor", allowed_hosts=allowed, workers=1) as predictor,
        running_feedback(tmp_path / "feedback", url, allowed_hosts=allowed) as (feedback, _),
    ):
        for address, path in ((predictor.url, "/v1/models"), (predictor.url, "/metrics"), (feedback, "/healthz")):
            assert ask(address, "models.example.com", path=path)[0] == 200
            assert ask(address, "evil.example", path=path)[0] == 421


@pytest.mark.parametrize(
    ("listens_at", "allowed"),
    [
        ("127.0.0.1", ("localhost", "127.0.0.1", "::1")),
        ("192.0.2.7", ("localhost", "127.0.0.1", "::1", "192.0.2.7")),
        ("box.lan", ("localhost", "127.0.0.1", "::1", "box.lan")),
        ("fe80::1%eth0", ("localhost", "127.0.0.1", "::1", "fe80::1")),
        ("0.0.0.0", ()),
        ("::", ()),
    ],
)
def test_up_answers_for_loopback_names_and_where_it_listens_unless_it_is_open_to_all(
    listens_at: str, allowed: tuple[str, ...]
) -> None:
    assert ports.names(listens_at) == allowed
    assert QueueProxySettings(allowed_hosts=allowed).allowed_hosts == allowed, "its services take that"


@pytest.mark.parametrize("wrong", ["*", "*.example.com", "example.com:80", "http://example.com", "", "a b", "[::1]:80"])
def test_a_setting_that_names_no_host_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("MODEL_SERVER_ALLOWED_HOSTS", json.dumps([wrong]))
    for role in (QueueProxySettings, UpSettings):
        with pytest.raises(SettingsError, match=r"MODEL_SERVER_ALLOWED_HOSTS=.* is not valid: a host is"):
            config.load(role)
    with pytest.raises(ValidationError):
        TypeAdapter(HostName).validate_python(wrong)


def test_a_host_has_one_spelling() -> None:
    assert host_and_port("[2001:DB8:0::1]:443") == ("2001:db8::1", 443)
    assert host_and_port("Models.Example.Com.:8000") == ("models.example.com", 8000)
    assert host_and_port("queue_proxy") == ("queue_proxy", None)
