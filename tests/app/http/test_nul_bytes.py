"""NUL characters, wherever a request can hold one, on each database."""

import pytest
from sqlalchemy.exc import DataError
from starlette.testclient import TestClient

from tests.app.conftest import AFFINE

HOOK = {"url": "https://example.org/", "event_types": ["fine_tuning.job.failed"]}


@pytest.mark.parametrize(
    "path",
    [
        "files/%00",
        "fine_tuning/jobs/a%00b",
        "models/%00",
        "webhook_endpoints/%00",
        "files?after=%00",
        "audit_logs?action=a%00",
    ],
)
def test_in_a_url(api: TestClient, path: str):
    """Path or query: 400 in the envelope, with a request id, before anything is looked up."""
    answer = api.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_text")
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("webhook_endpoints", {**HOOK, "name": "a\0b"}),
        ("fine_tuning/jobs", {"model": "a\0", "training_file": "file-none"}),
        ("fine_tuning/jobs", {"model": AFFINE, "training_file": "file-\0"}),
    ],
)
def test_in_a_body(api: TestClient, path: str, body: object):
    """Never a 500, and nothing that the other database would not take, either, where it is looked up."""
    answer = api.post(path, json=body)
    assert answer.status_code in (200, 400, 404)
    if "postgresql" in str(api.app.state.backends.database.url):  # type: ignore[attr-defined]
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_text")


def test_other_wrong_data_stays_our_fault(api: TestClient, monkeypatch: pytest.MonkeyPatch):
    """An error of another kind is a 500 that tells the client nothing."""

    def broken(*_: object, **__: object) -> None:
        raise DataError("INSERT", {"secret": "canary"}, Exception("value too long"))

    monkeypatch.setattr("app.webhooks.endpoints.find", broken)
    with TestClient(api.app, base_url="http://testserver/v1/", raise_server_exceptions=False) as client:
        answer = client.get("webhook_endpoints/we-1")
    assert answer.status_code == 500 and "too long" not in answer.text
