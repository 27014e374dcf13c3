"""The image, built and run as a strict cluster runs it: read-only root, no capability, a user that is not root."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

import model_server
from conftest import DEFAULT_BUNDLE, database_folder, free_port
from container_engine import Container, Engine, docker_engine
from model_server.store.embedded import embedded_postgres
from pictures import draw, encode

pytestmark = pytest.mark.container

IMAGE_TO_TEST = "TEST_IMAGE"
"""Variable that names an image to test; without it one is built."""
BUILT = "model-server:under-test"
MOST_BYTES = 600_000_000
MOST_SECONDS_TO_END = 10
BUILD_SECRET = b"only the build may read this line"
PICTURE = encode(draw())
LARGE_PICTURE = PICTURE + bytes(3_000_000)
"""More than frameworks keep in memory of an upload before they want a folder to write to."""
HEADERS = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with docker_engine() as running:
        yield running


@pytest.fixture(scope="session")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image once; what the build is trusted with is marked, to be looked for in the image."""
    if named := os.environ.get(IMAGE_TO_TEST):
        return named
    secrets = tmp_path_factory.mktemp("secrets")
    trusted = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")).read_bytes()
    (secrets / "bundle.crt").write_bytes(trusted + b"\n# " + BUILD_SECRET + b"\n")
    (secrets / "pip.conf").write_bytes(b"# " + BUILD_SECRET + b"\n[global]\ntimeout = 60\n")
    given = ["--ca-bundle", str(secrets / "bundle.crt"), "--pip-conf", str(secrets / "pip.conf")]
    engine.build("--tag", BUILT, *given, "--", "--network", "host")
    return BUILT


@dataclass(frozen=True)
class Service:
    """A role that runs in a container."""

    url: str
    container: Container


@pytest.fixture(scope="session")
def predictor(engine: Engine, image: str) -> Iterator[Service]:
    """Start a predictor as KServe does: its options alone, the model where its initializer puts it."""
    port, grpc_port = free_port(), free_port()
    kserve = ["--model_name=pictures", "--model_dir=/mnt/models", f"--http_port={port}", f"--grpc_port={grpc_port}"]
    with engine.container(image, *kserve, volumes=[f"{DEFAULT_BUNDLE}:/mnt/models:ro"]) as container:
        container.wait_until_answers(f"http://127.0.0.1:{port}/v2/health/ready")
        yield Service(f"http://127.0.0.1:{port}", container)


@pytest.fixture(scope="session")
def database(engine: Engine, image: str) -> Iterator[tuple[str, str]]:
    """Yield the URL of a database that the image itself migrated, for containers, and the volume that they need."""
    with database_folder() as folder, embedded_postgres(folder) as url:
        # PostgreSQL listens in a folder that no other user may enter; its socket alone is handed on.
        volume = f"{folder}/.s.PGSQL.5432:/run/postgresql/.s.PGSQL.5432"
        inside = make_url(url).set(query={"host": "/run/postgresql"}).render_as_string(hide_password=False)
        with engine.container(image, "migrate", volumes=[volume], database_url=inside) as migration:
            assert migration.wait() == 0, migration.log
        yield inside, volume


@pytest.fixture(scope="session")
def feedback_url(engine: Engine, image: str, database: tuple[str, str]) -> Iterator[str]:
    url, volume = database
    port = free_port()
    with engine.container(image, "feedback", volumes=[volume], database_url=url, feedback_port=port) as container:
        container.wait_until_answers(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def queue_proxy(
    engine: Engine, image: str, predictor: Service, database: tuple[str, str], feedback_url: str
) -> Iterator[Service]:
    url, volume = database
    port = free_port()
    settings = {
        "database_url": url,
        "predictor_url": predictor.url,
        "feedback_url": feedback_url,
        "queue_proxy_port": port,
    }
    with engine.container(image, "queue-proxy", volumes=[volume], **settings) as container:
        container.wait_until_answers(f"http://127.0.0.1:{port}/readyz")
        yield Service(f"http://127.0.0.1:{port}", container)


def test_it_is_small_and_says_what_it_is(engine: Engine, image: str) -> None:
    (described,) = json.loads(engine.run("inspect", image).stdout)
    assert described["Size"] < MOST_BYTES
    labels = described["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == model_server.__version__
    assert labels["org.opencontainers.image.revision"] != "unknown"
    assert described["Config"]["User"] == "1000:1000"
    assert described["Config"]["Entrypoint"] == ["model-server"]


def test_no_compiler_installer_or_tensorflow_is_in_it(engine: Engine, image: str) -> None:
    look = (
        "import importlib.util, json, shutil\n"
        "programs = [name for name in ('cc', 'gcc', 'c++', 'make') if shutil.which(name)]\n"
        "modules = [name for name in ('pip', 'tensorflow', 'pytest') if importlib.util.find_spec(name)]\n"
        "print(json.dumps(programs + modules))"
    )
    python = "/opt/model-server/bin/python"
    found = engine.run("run", "--rm", "--entrypoint", python, image, "-c", look).stdout
    assert json.loads(found) == []


@pytest.mark.skipif(IMAGE_TO_TEST in os.environ, reason="the image was built elsewhere")
def test_no_layer_keeps_what_the_build_was_trusted_with(engine: Engine, image: str) -> None:
    """The layers are searched, not the container: what one layer holds and the next removes can still be read."""
    with subprocess.Popen([*engine.command, "save", image], stdout=subprocess.PIPE) as saving:
        searched = subprocess.run(["grep", "-ac", BUILD_SECRET], stdin=saving.stdout, capture_output=True, check=False)
    assert saving.returncode == 0
    assert searched.stdout == b"0\n"


def test_predictor_answers_with_the_options_that_kserve_passes(predictor: Service) -> None:
    golden = json.loads((DEFAULT_BUNDLE / "model.json").read_text())["golden"][0]
    content = (DEFAULT_BUNDLE / golden["file"]).read_bytes()
    reply = httpx.post(f"{predictor.url}/v1/models/pictures:predict", content=content, headers=HEADERS)
    assert reply.status_code == 200, reply.text
    assert reply.json()["predictions"][0]["label"] == golden["label"]


def test_prediction_goes_through_the_queue(queue_proxy: Service) -> None:
    url = f"{queue_proxy.url}/v1/models/pictures:predict"
    accepted = httpx.post(url, content=PICTURE, headers={**HEADERS, "Prefer": "respond-async"})
    assert accepted.status_code == 202, accepted.text
    prediction = httpx.get(
        f"{queue_proxy.url}{accepted.headers['Location']}", headers={"Prefer": "wait=20"}, timeout=30
    )
    assert prediction.json()["status"] == "succeeded"


def test_large_upload_needs_no_folder_to_write_to(queue_proxy: Service) -> None:
    reply = httpx.post(
        f"{queue_proxy.url}/v1/models/pictures:predict",
        files={"file": ("photo.jpg", LARGE_PICTURE, "image/jpeg")},
        headers={"Prefer": "respond-async, wait=20"},
        timeout=30,
    )
    assert reply.status_code == 200, reply.text
    assert reply.json()["status"] == "succeeded"


def test_feedback_is_taken(queue_proxy: Service) -> None:
    headers = {**HEADERS, "Prefer": "respond-async, wait=20"}
    url = f"{queue_proxy.url}/v1/models/pictures:predict"
    prediction = httpx.post(url, content=PICTURE, headers=headers, timeout=30).json()
    judgement = {"prediction_id": prediction["id"], "correct": True}
    reply = httpx.post(f"{queue_proxy.url}/feedback/", json=judgement)
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize(
    ("role", "ready"),
    [
        ("predictor", "/v2/health/ready"),
        ("queue-proxy", "/readyz"),
        ("feedback", "/readyz"),
    ],
)
def test_sigterm_ends_a_role(engine: Engine, image: str, database: tuple[str, str], role: str, ready: str) -> None:
    url, volume = database
    port = free_port()
    settings = {f"{name}_port": port for name in ("predictor", "queue_proxy", "feedback")} | {"predictor_grpc_port": 0}
    with engine.container(image, role, volumes=[volume], database_url=url, **settings) as container:
        container.wait_until_answers(f"http://127.0.0.1:{port}{ready}")
        status, seconds = container.terminate()
        assert (status, container.log.count("Traceback")) == (0, 0), container.log
        assert seconds < MOST_SECONDS_TO_END


def test_sigterm_ends_a_command_that_waits(engine: Engine, image: str) -> None:
    """The first process of a container is sent SIGTERM in vain, unless it handles it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        with engine.container(image, "migrate", database_url=url) as container:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                status, seconds = container.terminate()
        assert status == 128 + 15
        assert seconds < MOST_SECONDS_TO_END
