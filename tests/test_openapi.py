"""What the OpenAPI documents promise, tried with generated requests: no 5xx, no status that is not documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts_server import Accounts, running_accounts
from conftest import cloned_database
from queue_server import StubPredictor, answers

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BOUNDED = settings(
    max_examples=15,  # for each operation; together they run for less than a minute
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def accounts(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    folder = tmp_path_factory.mktemp("openapi")
    with (
        StubPredictor(answers()) as stub,
        cloned_database(postgres) as url,
        running_accounts(folder, url, stub.url) as running,
    ):
        yield running


@pytest.mark.parametrize("document", ["/openapi.json", "/feedback/openapi.json"])
@pytest.mark.parametrize("logged_in", [False, True], ids=["anonymous", "administrator"])
def test_service_keeps_its_promises(accounts: Accounts, document: str, logged_in: bool) -> None:
    headers = accounts.administrator().headers if logged_in else {}
    schema = schemathesis.openapi.from_url(accounts.url + document)
    operations = [result.ok() for result in schema.get_all_operations()]
    described = httpx.get(accounts.url + document).json()["paths"]
    del described[document]  # which Schemathesis has read already
    assert {(one.method, one.path) for one in operations} == {
        (name, path) for path in described for name in described[path]
    }
    for operation in operations:
        given(case=operation.as_strategy())(BOUNDED(lambda case: try_one(case, headers)))()


def try_one(case: Any, headers: dict[str, str]) -> None:
    # What `Prefer` asks for is promised elsewhere, and waiting for it here would only take time.
    case.headers = {name: value for name, value in (case.headers or {}).items() if name != "Prefer"}
    case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)
