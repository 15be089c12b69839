"""A service without keys and the web pages that this machine's browsers show."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.guarded import guard

OWN = ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "api.localhost", "permafrost", "127.8.9.1", ""]
STRANGE = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "192.168.0.7",
    "localhost.evil.example",
    "[fe80::1]",
]


@pytest.mark.parametrize("host", OWN)
def test_this_machine_by_all_of_its_names(client: TestClient, host: str):
    """Loopback addresses, localhost, and names without a dot, as containers have them."""
    assert client.get("files", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", STRANGE)
def test_a_name_that_was_pointed_here_is_refused(client: TestClient, host: str):
    """DNS rebinding: the browser believes that it speaks to the page's own server, and says so in Host."""
    for path in ("files", "http://testserver/", "http://testserver/healthz"):
        answer = client.get(path, headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "untrusted_host")
        assert "PERMAFROST_TRUSTED_HOSTS" in answer.json()["error"]["message"] and "x-request-id" in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://192.168.0.7", "null", "http://[", "file://"])
def test_a_page_from_elsewhere_changes_nothing(client: TestClient, origin: str):
    """A form or a script of another page says where it comes from; what it reads it cannot see anyway."""
    job = "fine_tuning/jobs/ftjob-none/cancel"
    expected = 404 if origin == "file://" else 403  # a file's real origin is `null`
    assert client.post(job, headers={"origin": origin}).status_code == expected
    assert client.post(job, headers={"origin": "http://localhost:8000"}).status_code == 404
    assert client.get("files", headers={"origin": origin}).status_code == 200


def test_more_hosts_can_be_named(tmp_path: Any):
    """Behind a proxy with a name of its own."""
    settings = Settings(data_dir=tmp_path, trusted_hosts="Frost.Example, other.example")
    with TestClient(create_app(settings), base_url="http://frost.example") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/healthz", headers={"host": "third.example"}).status_code == 403


def test_with_keys_names_do_not_matter(tmp_path: Any):
    """A page has no key, so it may call itself what it likes."""
    guarded = guard(Settings(data_dir=tmp_path))
    application: FastAPI = guarded.application
    with TestClient(application, base_url="http://frost.example/v1/") as client:
        assert client.get("files", headers=guarded.headers("mine")).status_code == 200
