"""What `helm test` runs in a pod, run here: it passes on every kind of release, and fails where one is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from accounts_server import running_accounts
from chart import of_kind, render
from conftest import Server
from queue_server import running_proxy


def helm_test(url: str, *values: str) -> subprocess.CompletedProcess[str]:
    """Run the command of the test pod that the chart renders with these values, against another address."""
    documents = render(*(part for value in values for part in ("--set", value)))
    (container,) = of_kind(documents, "Pod")[0]["spec"]["containers"]
    program, _, *rest = container["args"]
    command = [sys.executable, "-c", program, url, *rest]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_new_user_classifies_and_judges(tmp_path: Path, database_url: str, server: Server) -> None:
    with running_accounts(tmp_path, database_url, server.url) as accounts:
        tested = helm_test(accounts.url)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "judged, read back, and the user removed" in tested.stdout


@pytest.mark.parametrize("value", ["feedback.enabled=false", "feedback.settings.registration=closed"])
def test_where_nobody_can_make_an_account_it_is_turned_away(
    tmp_path: Path, database_url: str, server: Server, value: str
) -> None:
    with running_proxy(tmp_path / "proxy", database_url, server.url, mode="accounts") as proxy:
        tested = helm_test(proxy.url, value)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "nobody without an account gets a prediction" in tested.stdout


def test_where_no_account_is_needed_it_makes_none(tmp_path: Path, database_url: str, server: Server) -> None:
    with running_proxy(tmp_path / "proxy", database_url, server.url, mode="open") as proxy:
        tested = helm_test(proxy.url, "mode=open", "feedback.enabled=false")
        open_door = helm_test(proxy.url, "feedback.enabled=false")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "classified: " in tested.stdout
    assert open_door.returncode != 0
    assert "A prediction was made without an account." in open_door.stderr
