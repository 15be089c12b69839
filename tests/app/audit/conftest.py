"""A service with keys, and its audit log, for the tests of the log."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.guarded import Guarded, guard
from tests.conftest import Deployment


@pytest.fixture
def guarded(deployment: Deployment) -> Guarded:
    return guard(deployment.settings)


@pytest.fixture
def client(guarded: Guarded) -> Iterator[TestClient]:
    with TestClient(guarded.application, base_url="http://testserver/v1/", headers=guarded.headers("mine")) as made:
        yield made


def lines(client: TestClient, **query: Any) -> list[dict]:
    answer = client.get("audit_logs", params={"order": "asc", "limit": 100, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]
