"""Sessions of browsers: a key given once, a cookie that ends with it, and no change from another origin's page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.auth import api_keys, sessions
from app.auth.tables import ApiKey, BrowserSession
from tests.app.guarded import Guarded

BROWSER = {"accept": "text/html"}
OURS = BROWSER | {"origin": "http://testserver"}


@pytest.fixture
def browser(guarded: Guarded) -> Iterator[TestClient]:
    with TestClient(guarded.application, base_url="http://testserver", follow_redirects=False) as made:
        yield made


def sign_in(browser: TestClient, key: str, **form: str) -> Any:
    return browser.post("/login", data={"key": key, **form}, headers=OURS)


def test_a_key_becomes_a_session(guarded: Guarded, browser: TestClient):
    """Scripts cannot read the cookie, other sites' forms do not send it, and it is not the key, which the log names."""
    answer = sign_in(browser, f" {guarded.keys['mine', 'writer']} ", next="/?status=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?status=failed")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "pf_" not in cookie
    assert "secure" not in cookie
    page = browser.get("/", headers=BROWSER)
    assert page.status_code == 200 and "writer of mine" in page.text and 'href="/new"' in page.text
    log = browser.get("/v1/audit_logs", headers=guarded.headers("mine")).json()["data"]
    assert log[0]["action"] == "signIn"
    with guarded.db.read() as session:
        stored = session.query(BrowserSession).one()
    assert stored.id not in cookie


def test_over_tls_the_cookie_is_for_tls_alone(guarded: Guarded):
    """Secure, where the request came by https."""
    with TestClient(guarded.application, base_url="https://testserver", follow_redirects=False) as browser:
        form = {"key": guarded.keys["mine", "reader"]}
        answer = browser.post("/login", data=form, headers={"origin": "https://testserver"})
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example", "/login", "x"])
def test_nobody_is_sent_elsewhere(guarded: Guarded, browser: TestClient, next: str):
    """A link to the login page cannot lead to another site after it."""
    assert sign_in(browser, guarded.keys["mine", "reader"], next=next).headers["location"] == "/"
    assert "evil" not in browser.get("/login", params={"next": next}).text


def test_a_wrong_key_gets_no_session(guarded: Guarded, browser: TestClient):
    """And is not repeated on the page."""
    answer = sign_in(browser, "pf_aaaaaaaa_" + "0" * 64)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert "wrong, expired or revoked" in answer.text and "pf_aaaa" not in answer.text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver:81", None])
@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs/ftjob-1/cancel", "/jobs/ftjob-1/cancel", "/new", "/v1/files"])
def test_a_change_must_come_from_our_own_pages(guarded: Guarded, browser: TestClient, path: str, origin: str | None):
    """A cookie goes along with every request to this host: another origin's form, or one without origin, is refused."""
    sign_in(browser, guarded.keys["mine", "admin"])
    headers = {"origin": origin} if origin else {}
    answer = browser.post(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "untrusted_origin")
    assert browser.post(path, headers=OURS).status_code in (200, 400, 404, 415, 422)
    assert browser.post("/login", data={"key": "x"}, headers=headers).status_code == 403


def test_signing_out_ends_the_session_everywhere(guarded: Guarded, browser: TestClient):
    """A copy of the cookie is worth nothing after it."""
    sign_in(browser, guarded.keys["mine", "reader"])
    token = browser.cookies[sessions.COOKIE]
    assert browser.get("/v1/files").status_code == 200
    assert browser.post("/logout", headers=OURS).headers["location"] == "/login"
    browser.cookies.set(sessions.COOKIE, token)
    assert browser.get("/v1/files").status_code == 401
    page = browser.get("/jobs/ftjob-1", headers=BROWSER)
    assert page.status_code == 401 and 'value="/jobs/ftjob-1"' in page.text


def test_a_session_ends_with_its_key_and_in_time(guarded: Guarded, browser: TestClient):
    """Revoked, and after twelve hours; the next session clears away what is over."""
    for role in ("reader", "writer"):
        sign_in(browser, guarded.keys["mine", role])
    token = browser.cookies[sessions.COOKIE]
    with guarded.db.write() as session:
        key = sessions.find(session, token, guarded.settings)
        assert isinstance(key, ApiKey) and key.role == "writer"
        api_keys.revoke(session, key.id)
    with guarded.db.write() as session:
        assert sessions.find(session, token, guarded.settings) is None
        assert sessions.find(session, "x" * 43, guarded.settings) is None
        for row in session.query(BrowserSession):
            assert timedelta(hours=11) < row.expires_at - datetime.now(UTC) <= sessions.LASTS
            row.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    sign_in(browser, guarded.keys["mine", "admin"])
    with guarded.db.read() as session:
        assert session.query(BrowserSession).count() == 1


def test_a_token_is_no_key(guarded: Guarded, browser: TestClient):
    """It works as a cookie alone, so that the check of origins cannot be left out."""
    sign_in(browser, guarded.keys["mine", "admin"])
    token = browser.cookies.pop(sessions.COOKIE)
    assert browser.get("/v1/files", headers={"authorization": f"Bearer {token}"}).status_code == 401


def test_a_reader_sees_no_buttons(guarded: Guarded, browser: TestClient):
    """And may not do what they do."""
    sign_in(browser, guarded.keys["mine", "reader"])
    page = browser.get("/", headers=BROWSER)
    assert page.status_code == 200 and "/new" not in page.text
    for method, path in (("GET", "/new"), ("POST", "/new"), ("POST", "/jobs/ftjob-1/pause")):
        refused = browser.request(method, path, headers=OURS)
        assert refused.status_code == 403 and "the role writer" in refused.text
