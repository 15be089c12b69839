"""A service on both databases, and a sweep to post to it."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import rows, upload_to
from tests.app.sweeps.sweeps import body


@pytest.fixture
def file(api: TestClient) -> str:
    return upload_to(api)(rows())


@pytest.fixture
def post(api: TestClient, file: str) -> Callable[..., Any]:
    """Posts a sweep of three jobs, or one that is changed by the arguments, and returns its JSON."""

    def send(**more: Any) -> Any:
        answer = api.post("fine_tuning/sweeps", json=body(file, **more))
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send
