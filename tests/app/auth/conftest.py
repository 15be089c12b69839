"""A service that asks for keys, and a client to it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.app.guarded import Guarded, guard
from tests.conftest import Deployment


@pytest.fixture
def guarded(deployment: Deployment) -> Guarded:
    return guard(deployment.settings)


@pytest.fixture
def client(guarded: Guarded) -> Iterator[TestClient]:
    with TestClient(guarded.application, base_url="http://testserver/v1/") as asking:
        yield asking
