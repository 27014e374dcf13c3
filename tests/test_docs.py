"""The README and the commands tell the same story."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.metrics import MetricWrapperBase

from conftest import REPOSITORY
from model_server import cli
from model_server.predictor import metrics
from model_server.queue_proxy import apis

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SCRIPTS = [".ci/run", *(f"scripts/{path.name}" for path in (REPOSITORY / "scripts").iterdir() if not path.suffix)]
METRICS = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
REFRESH_SETTINGS = (
    r"model-server settings | sed -i -e '/^<!-- settings -->/r /dev/stdin' "
    r"-e '/^<!-- settings -->/,/^<!-- \/settings -->/{//!d}' README.md"
)


def test_settings_table_is_that_of_the_command() -> None:
    match = re.search(r"^<!-- settings -->\n(.*?)\n<!-- /settings -->$", README, re.DOTALL | re.MULTILINE)
    assert match, "README.md has lost the markers around its settings table"
    current = CliRunner().invoke(cli.group, ["settings"]).output.strip()
    assert match.group(1).strip() == current, f"The settings table of README.md is stale. Run: {REFRESH_SETTINGS}"


def test_the_command_that_refreshes_the_table_works(tmp_path: Path) -> None:
    stale = re.sub(r"^\| `MODEL_SERVER_.*\n", "", README, flags=re.MULTILINE)
    (tmp_path / "README.md").write_text(stale, encoding="utf-8")
    command = f"export PATH={Path(sys.executable).parent}:$PATH; {REFRESH_SETTINGS}"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == README


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_is_in_the_readme_and_shows_an_example(name: str) -> None:
    assert f"model-server {name}" in README
    shown = CliRunner().invoke(cli.group, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Example: model-server {name}" in shown.output


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_in_the_readme_and_shows_an_example(name: str) -> None:
    assert f"`{name}" in README or f"\n{name}" in README
    shown = subprocess.run([REPOSITORY / name, "--help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"Example: .*{name}", shown)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric._name)
def test_metric_is_in_the_readme(metric: MetricWrapperBase) -> None:
    (family,) = metric.describe()
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    assert f"`{family.name}{suffix}`" in README


def coming_from() -> str:
    return README.partition("\n### Coming from another service\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("name", sorted(apis.NAMES - {"/login", "/user", "/v1/predictions", "/v1/queue", "/v1/quotas"}))
def test_route_of_another_service_is_in_the_table_with_its_request_and_reply(name: str) -> None:
    cells = [line.split(" | ") for line in coming_from().splitlines() if line.startswith("| ")]
    rows = [
        row for row in cells if re.search(rf"`(GET|POST) {re.escape(name)}[/?:`{{]|POST {re.escape(name)}/", row[1])
    ]
    assert rows, f"no row for {name}"
    assert all(len(row) == 3 and len(row[2]) > 10 for row in rows)


def test_readme_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


def test_picture_to_try_is_in_the_package() -> None:
    pictures = re.findall(r"model_server/default_model/golden/[\w.]+", README)
    assert pictures
    assert all((REPOSITORY / picture).exists() for picture in pictures)


def published_files() -> list[Path]:
    """The files whose readers have a package index of their own."""
    kinds = ("*.md", "*.txt", "*.toml", "scripts/*", ".ci/*", "Dockerfile*")
    return [path for kind in kinds for path in REPOSITORY.glob(kind)]


@pytest.mark.parametrize("path", published_files(), ids=lambda path: path.name)
def test_no_package_index_is_prescribed(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("--no-emit-", "")
    assert not re.search(r"\bpy(pi|thonhosted)\.|/simple/?\b|--(extra-)?index-url|--find-links", text)


def test_lock_pins_versions_and_no_addresses() -> None:
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [pin for pin in pins if not re.match(r"[a-z0-9._-]+==[^ ]+( ; .+)?$", pin)] == []
