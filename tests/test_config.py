"""A wrong setting ends in one sentence that names its variable; a right one arrives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_server import config
from model_server.config import PredictorSettings, QueueProxySettings
from model_server.errors import SettingsError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PREDICTOR_PORT", "http", "valid integer"),
        ("PREDICTOR_PORT", "70000", "less than or equal to 65535"),
        ("PREDICTOR_GRPC_PORT", "-1", "greater than or equal to 0"),
        ("RUNTIME", "onnx", "'litert', 'openvino'"),
        ("LOG_LEVEL", "chatty", "'debug', 'info'"),
        ("LOG_FORMAT", "xml", "'json'"),
        ("MODEL_NAME", "my model", "match pattern"),
        ("MODEL_NAME", "../x", "match pattern"),
        ("WORKERS", "2.5", "valid integer"),
        ("MAX_BATCH", "0", "greater than or equal to 1"),
        ("QUEUE_SIZE", "many", "valid integer"),
        ("MAX_BODY_BYTES", "16M", "valid integer"),
        ("BODY_TIMEOUT_SECONDS", "0", "greater than 0"),
        ("SHUTDOWN_GRACE_SECONDS", "-5", "greater than or equal to 0"),
    ],
)
def test_wrong_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(f"MODEL_SERVER_{variable}", value)
    with pytest.raises(SettingsError) as caught:
        config.load(PredictorSettings)
    message = str(caught.value)
    assert message.startswith(f"MODEL_SERVER_{variable}={value!r} is not valid: ")
    assert reason in message
    assert message.endswith(".")
    assert "\n" not in message


NO_URLS = [
    *(
        "a",
        "//a",
        "http:a",
        "http:/a",
        "http://a/ b",
        "http://",
        "http:///x",
        "http://?",
        "http://#",
        "http://:8080",
        "ftp://a",
    ),
    *("javascript://a", "http://[::1", "http://::1]", "http://[::1]x", "http://[g::1]", "http://[]", "http://::1"),
    *("http://[::1%25lo]", "http://[a.example]", "http://a:99999", "http://a:0", "http://a:", "http://a:8o"),
    *(
        "http://a:-1",
        "http://a:80:80",
        "http://a b",
        " http://a",
        "http://a ",
        "http://a\n",
        "http://a\t/x",
        "http://a/ b",
    ),
    *(
        "http://a\x7f",
        "http://a\x1b[2J",
        "http://b\xfccher.example",
        "http://a/\u202e",
        "http://a\u2028",
        "http://\udc80",
    ),
    *("http://user:secret@host", "http://user@host", "http://@host", "http://host@", "http://a\\@b", "http://a?x=1"),
    *(
        "http://a?",
        "http://a#x",
        "http://a/x?y",
        "http://a..b",
        "http://.a",
        "http://a,b",
        "http://a%20b",
        "http://a/%zz",
    ),
    *("http://1.2.3.4.5", "http://300.1.1.1", "http://127.1", "http://2130706433", "http://0x7f.0.0.1", "http://a;b"),
    "http://" + "a" * 64,
    "http://" + ".".join(["a" * 60] * 5),
]
URLS = [
    *(
        "http://a",
        "https://a.example:8080/x/y%20z/",
        "http://[::1]:8080",
        "http://127.0.0.1:8080",
        "http://queue_proxy",
    ),
    *("http://A.Example.", "http://a:65535/", "http://[2001:db8::1]/x", "http://a-.b"),
]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_a_service_is_one_sentence_without_a_password(url: str) -> None:
    weighted = [{"url": url, "weight": 1}]
    for given in ({"predictor_url": url}, {"feedback_url": url}, {"predictors": weighted}):
        with pytest.raises(SettingsError) as caught:
            config.load(QueueProxySettings, **given)
        message = str(caught.value)
        assert message.startswith(f"MODEL_SERVER_{next(iter(given)).upper()}=")
        assert "a URL is http or https" in message
        assert "secret" not in message
        assert message.isprintable()


@pytest.mark.parametrize("url", URLS)
def test_url_of_a_service_is_taken_as_it_is(url: str) -> None:
    settings = QueueProxySettings(predictor_url=url, feedback_url=url, predictors=[{"url": url, "weight": 1}])
    assert {settings.predictor_url, settings.feedback_url, settings.predictors[0].url} == {url}


@pytest.mark.parametrize("variable", ["PREDICTORS", "CALLBACK_HOSTS"])
def test_what_should_be_json_and_is_not_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(f"MODEL_SERVER_{variable}", "http://a")
    with pytest.raises(SettingsError, match=f"^MODEL_SERVER_{variable} is not valid JSON.$"):
        config.load(QueueProxySettings, database_url="postgresql://host/name")


def test_command_ends_with_status_2_and_that_sentence() -> None:
    environment = os.environ | {"MODEL_SERVER_PREDICTOR_PORT": "http"}
    command = [sys.executable, "-m", "model_server", "predictor"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 2
    assert finished.stderr.startswith("model-server: MODEL_SERVER_PREDICTOR_PORT='http' is not valid: ")
    assert finished.stderr.count("\n") == 1


def test_services_do_not_start_with_what_is_no_url() -> None:
    for variable in ("PREDICTOR_URL", "FEEDBACK_URL"):
        environment = {**os.environ, f"MODEL_SERVER_{variable}": "http://[::1"}
        command = [sys.executable, "-m", "model_server", "queue-proxy"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert f"MODEL_SERVER_{variable}=" in done.stderr


def test_option_wins_over_environment_and_environment_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SERVER_PREDICTOR_PORT", "9000")
    assert config.load(PredictorSettings).predictor_port == 9000
    assert config.load(PredictorSettings, predictor_port=None).predictor_port == 9000
    assert config.load(PredictorSettings, predictor_port=9001).predictor_port == 9001


def test_values_arrive_in_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL_DIR": "/models/a b", "MODEL_NAME": "net-1.2_b", "BODY_TIMEOUT_SECONDS": "2.5"}.items():
        monkeypatch.setenv(f"MODEL_SERVER_{name}", value)
    settings = config.load(PredictorSettings)
    assert settings.model_dir == Path("/models/a b")
    assert settings.model_name == "net-1.2_b"
    assert settings.body_timeout_seconds == 2.5


@pytest.mark.parametrize("row", config.markdown_table(PredictorSettings).splitlines()[2:])
def test_every_setting_is_explained(row: str) -> None:
    variable, _default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
    assert variable.startswith("`MODEL_SERVER_")
    assert meaning not in {"", "None"}
