"""Errors as pages for browsers, and as JSON for everything else."""

import pytest
from starlette.testclient import TestClient

from tests.app.guarded import guard
from tests.app.pages.test_routes import Page
from tests.conftest import Deployment

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_an_unknown_page_is_a_page_in_a_browser(client: TestClient) -> None:
    """With the way back; the same address is JSON for a client of the API."""
    url = "http://testserver/jbos"
    answer = client.get(url, headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    page = Page(answer.text)
    assert "There is no such page" in page.text
    assert {"/", "/docs", "/guide/errors/unknown_url/"} <= set(page.links)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for accept in ("*/*", "application/json", "text/html;q=0, */*"):
        answer = client.get(url, headers={"accept": accept})
        assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/fine_tuning/jobs/ftjob-none"])
def test_the_api_answers_browsers_with_json(client: TestClient, path: str) -> None:
    """Its addresses are not pages."""
    answer = client.get(f"http://testserver{path}", headers=BROWSER)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
    assert client.post("http://testserver/v1/models/x", headers=BROWSER).json()["error"]["code"] == "method_not_allowed"


def test_a_wrong_parameter_of_a_page_is_explained(client: TestClient) -> None:
    """What users wrote is text, not markup."""
    answer = client.get("http://testserver/?page=<b>", headers=BROWSER)
    assert answer.status_code == 400
    assert "page" in Page(answer.text).text
    assert "<b>" not in answer.text
    assert "/&lt;x&gt;" in client.get("http://testserver/<x>", headers=BROWSER).text


def test_a_page_that_needs_a_key_says_so(deployment: Deployment) -> None:
    """In words, with a form that takes one and comes back; a browser asks for no password of its own."""
    application = guard(deployment.settings).application
    with TestClient(application, base_url="http://testserver/v1/") as client:
        answer = client.get("http://testserver/?status=failed", headers=BROWSER)
    assert answer.status_code == 401
    assert "This page needs you to sign in" in Page(answer.text).text
    assert 'name="next" value="/?status=failed"' in answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")
