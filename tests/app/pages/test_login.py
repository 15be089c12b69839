"""Where somebody lands after signing in; sessions themselves are in tests/app/auth."""

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from starlette.testclient import TestClient

from app.pages.login import local
from tests.app.conftest import serve
from tests.app.guarded import Guarded
from tests.app.pages.test_browser import guarded, tab  # noqa: F401 - a fixture

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


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


@pytest.mark.slow
def test_the_form_is_accessible(guarded: Guarded) -> None:  # noqa: F811
    """By axe, light and dark, as it comes and after a wrong key."""
    with serve(guarded.application) as url, tab(url, expected="403") as page:
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.goto("/login")
            assert Axe().run(page).response["violations"] == []
            page.get_by_label("API key").fill("pf_wrong")
            page.keyboard.press("Enter")
            page.get_by_role("alert").wait_for()
            assert Axe().run(page).response["violations"] == []
