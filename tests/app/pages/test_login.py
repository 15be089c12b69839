"""Where somebody lands after signing in; sessions themselves are in tests/app/auth."""

import pytest
from starlette.testclient import TestClient

from app.pages.login import local


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/jobs/a?log=b", "/jobs/a?log=b"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\nb", "/"),
        ("/login?next=/", "/"),
        ("", "/"),
    ],
)
def test_nobody_is_sent_elsewhere(path: str, leads_to: str) -> None:
    """A path of this service, and not the form itself."""
    assert local(path) == leads_to


def test_without_keys_there_is_nothing_to_sign_in_to(client: TestClient) -> None:
    """Both ways lead to the dashboard."""
    for method in ("GET", "POST"):
        answer = client.request(method, "http://testserver/login", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
