"""One request is one request: no framing makes the next caller wait, or get another's answer."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from accounts_server import running_feedback
from conftest import REPOSITORY, Server, cloned_database
from pictures import b64
from queue_server import PHOTO, StubPredictor, answers, photo, running_proxy
from raw_http import all_statuses, chunked, connected, head, read_reply

UPGRADES = {
    "no upgrade": [],
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
    "TLS": ["Connection: upgrade", "Upgrade: TLS/1.2"],
    "websocket": ["connection: keep-alive, Upgrade", "upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="],
    "unknown": ["Connection: UPGRADE", "UPGRADE: something/9, h2c"],
}
DOCUMENT = json.dumps({"instances": [{"b64": b64(PHOTO)}], "parameters": {"top_k": 1}}).encode()
JSON = "Content-Type: application/json"
LENGTH = f"Content-Length: {len(DOCUMENT)}"
NEXT = head("GET", "/next")
FRAMINGS = {
    "announced": ([LENGTH], DOCUMENT),
    "none": ([], b""),
    "long": ([LENGTH], DOCUMENT + NEXT),
    "chunked": (["Transfer-Encoding: chunked"], chunked(DOCUMENT)),
    "with trailers": (["Transfer-Encoding: chunked"], chunked(DOCUMENT, "X-Request-Id: trailing", "X: y")),
    "short": ([LENGTH], DOCUMENT[:4]),
    "nothing of it": (["Content-Length: 400"], b""),
    "unfinished chunk": (["Transfer-Encoding: chunked"], b"ff\r\n{"),
}
IS_WHOLE = {"announced", "none", "long", "chunked", "with trailers"}
METHODS = ("GET", "HEAD", "POST", "DELETE")
PATIENCE = 20
"""Far below the 60 s for which a caller would wait behind an announced body that never comes."""
SLOTS = 8
"""More than the connections that the queue-proxy keeps here to the predictor: each of them is tried."""


@dataclass(frozen=True)
class Front:
    """What strangers reach: a service, a path that reads a body, and paths that answer without."""

    url: str
    reads: str
    early: tuple[str, ...]
    model: str | None

    def innocent(self, number: int) -> bool:
        """Whether another caller's request is answered, in time and with their own answer."""
        with connected(self.url, PATIENCE) as connection:
            if self.model is None:
                connection.sendall(head("GET", f"/feedback/number-{number}/image"))
                status, _, content = read_reply(connection)
                return status == 404 and f"'number-{number}'".encode() in content
            top = 1 + number % 9
            document = json.dumps({"instances": [{"b64": b64(PHOTO)}], "parameters": {"top_k": top}}).encode()
            fields = [JSON, f"Content-Length: {len(document)}", "Cache-Control: no-cache"]
            connection.sendall(head("POST", self.reads, *fields) + document)
            status, _, content = read_reply(connection)
            return status == 200 and len(json.loads(content)["predictions"][0]["top"]) == top


@pytest.fixture(scope="module", params=["predictor", "queue-proxy", "feedback"])
def front(request, server: Server, postgres: str, tmp_path_factory) -> Iterator[Front]:
    """Return each service, the queue-proxy in front of the real predictor."""
    paths = ("/v1/models", "/v2/health/live", f"/v2/models/{server.model}", "/none", "/v1/models/none:predict")
    predict = f"/v1/models/{server.model}:predict"
    log = tmp_path_factory.mktemp("front") / "log"
    if request.param == "predictor":
        yield Front(server.url, predict, paths, server.model)
        return
    with cloned_database(postgres) as url:
        if request.param == "queue-proxy":
            with running_proxy(log, url, server.url, model=server.model, body_timeout_seconds=5) as proxy:
                yield Front(proxy.url, predict, (*paths, "/healthz", "/"), server.model)
        else:
            with running_feedback(log, url, registrations_per_hour=100_000) as (feedback_url, _):
                yield Front(feedback_url, "/user/", ("/healthz", "/none", "/login"), None)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("upgrade", UPGRADES)
def test_whatever_the_framing_the_next_callers_get_their_own_answers(front: Front, upgrade: str, framing: str):
    fields, body = FRAMINGS[framing]
    for method, path in itertools.product(METHODS, (front.reads, *front.early[:2])):
        with connected(front.url) as connection:
            connection.sendall(head(method, path, JSON, *UPGRADES[upgrade], *fields) + body)
            if framing in IS_WHOLE or (method == "GET" and path != front.reads):
                connection.recv(1)
    with ThreadPoolExecutor(SLOTS) as pool:
        assert all(pool.map(front.innocent, range(SLOTS)))


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("framing", sorted(IS_WHOLE - {"none"}))
def test_an_offered_upgrade_changes_nothing_about_the_answer(front: Front, upgrade: str, framing: str):
    fields, body = FRAMINGS[framing]
    with connected(front.url) as plain, connected(front.url) as offered:
        plain.sendall(head("POST", front.reads, JSON, LENGTH) + DOCUMENT)
        offered.sendall(head("POST", front.reads, JSON, *UPGRADES[upgrade], *fields) + body)
        expected, got = read_reply(plain), read_reply(offered)
        assert (got[0], got[2]) == (expected[0], expected[2])
        if framing == "long":
            assert read_reply(offered)[0] == 404


@pytest.mark.parametrize("framing", ["short", "nothing of it", "unfinished chunk"])
def test_a_reply_before_the_end_of_the_body_closes_the_connection(front: Front, framing: str):
    fields, body = FRAMINGS[framing]
    for path in front.early:
        with connected(front.url) as connection:
            connection.sendall(head("GET", path, *fields) + body)
            _, got, _ = read_reply(connection)
            assert got["connection"] == "close", path
            assert connection.recv(1) == b"", path


def test_who_is_refused_in_the_middle_of_a_large_body_can_read_why(front: Front):
    """Closing at once would reset the connection, and the reply with it."""
    with connected(front.url) as connection:
        connection.sendall(head("POST", front.reads, JSON, "Content-Length: 40000000"))
        for _ in range(200):
            connection.sendall(bytes(100_000))
        status, fields, content = read_reply(connection)
    assert (status, fields["connection"], list(json.loads(content))) == (413, "close", ["error"])


def post(*fields: str) -> bytes:
    """Return the head of a request to the path that the test chooses."""
    return head("POST", "{}", *fields)


CHUNKED = "Transfer-Encoding: chunked"
BROKEN = {
    "length and chunks": post("Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
    "two lengths": post("Content-Length: 2", "Content-Length: 50") + b"{}",
    "a list of lengths": post("Content-Length: 2, 2") + b"{}",
    "a signed length": post("Content-Length: +2") + b"{}",
    "a length beyond 64 bit": post("Content-Length: " + "9" * 40) + b"{}",
    "a length of 5,000 digits": post("Content-Length: " + "9" * 5000) + b"{}",
    "a space before the colon": post("Content-Length : 2") + b"{}",
    "another coding": post("Transfer-Encoding: gzip, chunked") + chunked(b"{}"),
    "chunked twice": post(CHUNKED, CHUNKED) + chunked(b"{}"),
    "identity": post("Transfer-Encoding: identity", "Content-Length: 2") + b"{}",
    "a folded line": post("X: a", " Content-Length: 40", "Content-Length: 2") + b"{}",
    "bare line feeds": post("Content-Length: 2").replace(b"\r\n", b"\n") + b"{}",
    "a bare carriage return": post("X: a\rContent-Length: 50", "Content-Length: 2") + b"{}",
    "a NUL": post("X: a\0b", "Content-Length: 2") + b"{}",
    "a signed chunk": post(CHUNKED) + b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond 64 bit": post(CHUNKED) + b"10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": post(CHUNKED) + b"2\r\n{}xx0\r\n\r\n",
    "a framing field as trailer": post(CHUNKED) + chunked(b"{}", "Content-Length: 9"),
    "an upgrade, length and chunks": post(*UPGRADES["h2c"], "Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
    "a tunnel": head("CONNECT", "a:1"),
    "another version": head("GET", "/", version="2.0"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_can_be_read_in_two_ways_is_refused_and_ends_its_connection(front: Front, name: str):
    with connected(front.url) as connection:
        connection.sendall(BROKEN[name].replace(b" {} ", b" " + front.reads.encode() + b" ") + NEXT)
        assert all_statuses(connection) == ([400], True)


HOPS = ("X-Hop: 1", "Trailer: X", "Keep-Alive: 5", "TE: trailers", "Proxy-Connection: close", "Transfer_Encoding: x")


@pytest.mark.parametrize("sent", HOPS)
def test_nothing_about_the_callers_connection_travels_on(tmp_path, database_url, sent):
    content = photo()
    fields = [sent, "Connection: keep-alive, X-Hop", "Content-Type: image/jpeg", "X-Other: 1", CHUNKED]
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url) as proxy,
        connected(proxy.url) as connection,
    ):
        request = head("POST", f"/v1/models/{proxy.model}:predict", *fields)
        connection.sendall(request + chunked(content, "X-Trailing: 1"))
        assert read_reply(connection)[0] == 200
    got = stub.headers[0]
    assert got.pop("content-length") == str(len(content))
    assert got["x-other"] == "1"
    assert not {sent.partition(":")[0].lower(), "transfer-encoding", "x-trailing", "connection"} & got.keys()


def test_pipelined_requests_are_answered_in_order_and_only_so_many(front: Front):
    with connected(front.url) as connection:
        connection.sendall(head("GET", "/none") * 5)
        assert all_statuses(connection) == ([404] * 5, False)
    with connected(front.url) as connection:
        connection.sendall(head("GET", "/none") * 1000)
        statuses, is_closed = all_statuses(connection)
        assert set(statuses) == {404}
        assert len(statuses) < 50
        assert is_closed


def test_paths_of_the_sdk_do_not_redirect(front: Front):
    for path in ("/v1/models/", "/v2/", "/v2/models/x/ready/"):
        reply = httpx.get(front.url + path)
        assert (reply.status_code, reply.headers.get("location")) == (404, None)


JAVA = """
import java.net.URI; import java.net.http.*; import java.nio.file.*; import java.time.Duration;
public class Ask { public static void main(String[] a) throws Exception {
  for (HttpClient.Version version : HttpClient.Version.values()) {
    HttpClient client = HttpClient.newBuilder().version(version).build();
    for (int i = 0; i < 2; i++) {
      HttpRequest request = HttpRequest.newBuilder(URI.create(a[0])).timeout(Duration.ofSeconds(20))
        .header("Content-Type", "application/json").POST(HttpRequest.BodyPublishers.ofFile(Path.of(a[1]))).build();
      System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode()); } } } }
"""
GO = """
package main
import ("bytes"; "fmt"; "net/http"; "os")
func main() {
  content, _ := os.ReadFile(os.Args[2])
  for i := 0; i < 2; i++ {
    request, _ := http.NewRequest("POST", os.Args[1], bytes.NewReader(content))
    request.Header.Set("Content-Type", "application/json")
    if i == 1 { request.Header.Set("Expect", "100-continue") }
    reply, err := http.DefaultClient.Do(request)
    if err != nil { panic(err) }
    fmt.Println(reply.StatusCode) } }
"""
CURL = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}\n", "-H", JSON, "--data-binary"]


@pytest.mark.parametrize("client", ["java", "go", "curl --http2", "curl with Expect"])
def test_the_default_clients_of_other_languages_can_post(front: Front, tmp_path: Path, client: str):
    program = client.partition(" ")[0]
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    url, document = front.url + front.reads, tmp_path / "document.json"
    document.write_bytes(DOCUMENT)
    (tmp_path / "Ask.java").write_text(JAVA)
    (tmp_path / "ask.go").write_text(GO)
    command = {
        "java": ["java", tmp_path / "Ask.java", url, document],
        "go": ["go", "run", tmp_path / "ask.go", url, document],
        "curl --http2": [*CURL, f"@{document}", "--http2", url],
        "curl with Expect": [*CURL, f"@{document}", "-H", "Expect: 100-continue", url],
    }[client]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY)
    expected = "422" if front.model is None else "200"
    assert set(done.stdout.split()) == {expected}, done.stderr
