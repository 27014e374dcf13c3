"""What the OpenAPI documents promise, tried with generated requests: no 5xx, no status that is not documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from accounts_server import Accounts, running_accounts
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import cloned_database
from queue_server import StubPredictor, answers

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 15
"""For each operation; together they run for less than a minute."""


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
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        tried += 1

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def try_it(case: Any) -> None:
            # Waiting is what it promises, and here only takes time.
            case.headers = {name: value for name, value in (case.headers or {}).items() if name != "Prefer"}
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)

        operation.as_strategy()
        _run(operation, try_it)
    assert tried == sum(len(methods) for methods in schema.raw_schema["paths"].values())


def _run(operation: Any, try_it: Any) -> None:
    from hypothesis import given

    given(case=operation.as_strategy())(try_it)()
