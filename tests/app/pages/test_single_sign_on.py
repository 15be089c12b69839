"""People sign in at a provider: a real one on loopback, whole flows, and everything that can go wrong on the way."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.auth.tables import PersonSession
from app.db import Database
from app.main import create_app
from app.settings import Settings
from migrations.tables import tables
from tests.app.conftest import serve
from tests.app.pages.test_browser import tab
from tests.conftest import Deployment
from tests.provider import CLIENT, SECRET, SignInServer, serving

BROWSER = {"accept": "text/html"}
OURS = BROWSER | {"origin": "http://127.0.0.1:8000"}
BASE = "http://127.0.0.1:8000"


@pytest.fixture
def server() -> Iterator[SignInServer]:
    with serving() as provider:
        yield provider


@pytest.fixture
def settings(deployment: Deployment, server: SignInServer) -> Settings:
    db = Database(deployment.settings.database)
    tables().create_all(db.engine)
    db.close()
    given = {"oidc_issuer": server.url, "oidc_client_id": CLIENT, "oidc_client_secret": SecretStr(SECRET)}
    given |= {"oidc_groups": "research=search:writer,research=ads:reader,chiefs=search:admin", "public_url": BASE}
    return deployment.settings.model_copy(update=given)


@pytest.fixture
def browser(settings: Settings) -> Iterator[TestClient]:
    """Of a service without any API key."""
    with TestClient(create_app(settings), base_url=BASE, follow_redirects=False) as made:
        yield made


def way_back(browser: TestClient, next: str = "/") -> str:
    """Goes to the provider; returns the path and query with which it sends the browser back."""
    there = browser.get("/login/provider", params={"next": next}, headers=BROWSER)
    assert there.status_code == 303, there.text
    parts = urlsplit(httpx2.get(there.headers["location"], follow_redirects=False).headers["location"])
    return f"{parts.path}?{parts.query}"


def sign_in(browser: TestClient, next: str = "/") -> Any:
    return browser.get(way_back(browser, next), headers=BROWSER)


def test_a_person_becomes_a_session(browser: TestClient):
    """With the role of the groups; the pages name the person, and so does the audit log, with the subject."""
    assert "Sign in at 127.0.0.1" in browser.get("/", headers=BROWSER).text
    answer = sign_in(browser, "/models")
    assert (answer.status_code, answer.headers["location"]) == (303, "/models")
    cookies = [each.lower() for each in answer.headers.get_list("set-cookie")]
    session = next(each for each in cookies if each.startswith("permafrost_session="))
    assert "httponly" in session and "samesite=lax" in session and "secure" not in session
    page = browser.get("/", headers=BROWSER)
    assert "ann@example.org (248289761001), writer of search" in page.text and 'href="/new"' in page.text
    assert browser.get("/v1/fine_tuning/jobs").status_code == 200


def test_the_audit_log_names_the_person(browser: TestClient, server: SignInServer):
    """With the subject, which stays the same whatever somebody calls themselves."""
    server.person["groups"] = ["chiefs"]
    sign_in(browser)
    browser.post("/v1/secrets", json={"name": "hub", "kind": "hub", "value": "hf_x"}, headers=OURS)
    newest, first = browser.get("/v1/audit_logs").json()["data"]
    assert (newest["action"], first["action"], first["object_id"]) == ("setSecret", "signIn", "248289761001")
    for line in (newest, first):
        assert line["actor"]["name"] == "ann@example.org (248289761001)" and line["actor"]["api_key_id"] is None


def test_the_role_is_a_limit(browser: TestClient):
    """403 names the role that is there; a change must come from our own pages, as with a key's session."""
    sign_in(browser)
    refused = browser.get("/v1/audit_logs").json()["error"]
    assert "you have the role writer in search" in refused["message"]
    elsewhere = browser.post("/v1/files", headers={"origin": "https://evil.example"})
    assert elsewhere.json()["error"]["code"] == "untrusted_origin"


def test_a_person_of_several_projects_chooses(browser: TestClient):
    """Among their own; another name changes nothing."""
    sign_in(browser)
    assert "<option selected>search</option><option>ads</option>" in browser.get("/", headers=BROWSER).text
    for chosen, shown in (("ads", "reader of ads"), ("secret", "writer of search"), ("é\n;", "writer of search")):
        assert browser.post("/login/project", data={"project": chosen}, headers=OURS).status_code == 303
        assert shown in browser.get("/", headers=BROWSER).text
    assert browser.post("/login/project", data={}, headers={"origin": "https://evil.example"}).status_code == 403


def test_signing_out_ends_it(browser: TestClient):
    """A copy of the cookie is worth nothing after it."""
    sign_in(browser)
    copied = browser.cookies["permafrost_session"]
    browser.post("/logout", headers=OURS)
    assert browser.get("/", headers=BROWSER | {"cookie": f"permafrost_session={copied}"}).status_code == 401


def test_a_session_ends_in_time_and_with_the_settings(browser: TestClient, settings: Settings) -> None:
    """After twelve hours, when its group loses its role, and when the provider changes."""
    sign_in(browser)
    cookie = {"cookie": f"permafrost_session={browser.cookies['permafrost_session']}"}
    for others in ({"oidc_groups": "chiefs=search:admin"}, {"oidc_issuer": "https://other.example"}):
        with TestClient(create_app(Settings(**(settings.model_dump() | others))), base_url=BASE) as later:
            assert later.get("/v1/fine_tuning/jobs", headers=cookie).status_code == 401
    with TestClient(create_app(settings), base_url=BASE) as later:
        assert later.get("/v1/fine_tuning/jobs", headers=cookie).status_code == 200
    db = Database(settings.database)
    with db.write() as session:
        session.query(PersonSession).one().expires_at = datetime.now(UTC) - timedelta(seconds=1)
    db.close()
    with TestClient(create_app(settings), base_url=BASE) as later:
        assert later.get("/v1/fine_tuning/jobs", headers=cookie).status_code == 401


def test_a_person_without_a_group_here_is_told_so(browser: TestClient, server: SignInServer):
    """No session, and who can help."""
    server.person["groups"] = ["strangers"]
    answer = sign_in(browser)
    assert answer.status_code == 403 and "none of your groups" in answer.text and "ann@example.org" in answer.text
    assert "permafrost_session" not in answer.headers.get("set-cookie", "")


def test_an_answer_needs_its_own_browser(browser: TestClient, settings: Settings):
    """Another's answer, an old one, one whose state was changed, and one used twice open nothing."""
    foreign = way_back(browser)
    with TestClient(create_app(settings), base_url=BASE, follow_redirects=False) as other:
        assert other.get(foreign, headers=BROWSER).status_code == 403
        way_back(other)
        assert "another browser" in other.get(foreign, headers=BROWSER).text
    assert browser.get(foreign.replace("state=", "state=x"), headers=BROWSER).status_code == 403
    assert browser.get(foreign, headers=BROWSER).status_code == 303
    assert browser.get(foreign, headers=BROWSER).status_code == 403


def test_an_attempt_is_over_after_ten_minutes(browser: TestClient, monkeypatch: pytest.MonkeyPatch):
    """By the sealed time in the cookie, not by the browser's word."""
    monkeypatch.setattr("app.pages.single_sign_on._SECONDS", -1)
    cookie = browser.get("/login/provider").headers["set-cookie"].partition(";")[0]
    path = way_back(browser)
    assert browser.get(path, headers=BROWSER | {"cookie": cookie}).status_code == 403


@pytest.mark.parametrize("cookie", ["", "x", "AAAA", "é", "A" * 3000])
def test_a_cookie_that_is_none(browser: TestClient, cookie: str):
    """Nothing but this service seals one."""
    path = way_back(browser)
    headers = {b"accept": b"text/html", b"cookie": f"permafrost_sign_in={cookie}".encode()}
    browser.cookies.clear()
    assert browser.get(path, headers=headers).status_code == 403


def test_an_answer_of_another_provider_is_refused(browser: TestClient):
    """RFC 9207: an answer that names its issuer has to be of ours."""
    path = way_back(browser)
    start, _, _ = path.partition("&iss=")
    answer = browser.get(f"{start}&iss=https://evil.example", headers=BROWSER)
    assert answer.status_code == 403 and "not from the sign-in provider" in answer.text


def test_a_refusal_of_the_provider_is_shown(browser: TestClient, server: SignInServer):
    """By its code, without its markup; the form for a key is still there."""
    server.refuses = "access_denied<script>"
    answer = sign_in(browser)
    assert answer.status_code == 403 and "access_deniedscript" in answer.text and "API key" in answer.text


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/keys"])
def test_a_provider_that_is_away(browser: TestClient, server: SignInServer, path: str):
    """502 with the reason, and a key still signs in."""
    if path == "/.well-known/openid-configuration":
        server.fails[path] = (503, b"")
        answer = browser.get("/login/provider", headers=BROWSER)
    else:
        back = way_back(browser)
        server.fails[path] = (503, b"")
        answer = browser.get(back, headers=BROWSER)
    assert answer.status_code == 502 and "answers 503" in answer.text and "API key" in answer.text


def test_a_wrong_token_is_refused(browser: TestClient, server: SignInServer):
    """The page says which part of it."""
    server.claims = {"nonce": "other"}
    answer = sign_in(browser)
    assert answer.status_code == 403 and "nonce" in answer.text


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example", "/login/provider"])
def test_nobody_is_sent_elsewhere(browser: TestClient, next: str):
    """A link to the way there cannot lead to another site after it."""
    assert sign_in(browser, next).headers["location"] == "/"


def test_the_way_there_has_what_the_flow_needs(browser: TestClient):
    """Code, PKCE by S256, state, nonce, the registered address; cookies are for TLS alone where it is public so."""
    url = browser.get("/login/provider").headers["location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert asked["redirect_uri"] == f"{BASE}/login/callback" and asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43


def test_over_tls_cookies_are_for_tls_alone(settings: Settings):
    """By the public address: a proxy that brings TLS hides the scheme."""
    public = settings.model_copy(update={"public_url": "https://tune.example"})
    with TestClient(create_app(public), base_url=BASE, follow_redirects=False) as browser:
        answer = browser.get("/login/provider")
    assert "secure" in answer.headers["set-cookie"].lower()
    assert "redirect_uri=https%3A%2F%2Ftune.example%2Flogin%2Fcallback" in answer.headers["location"]


def test_without_a_provider_both_ways_lead_to_the_form(client: TestClient):
    """As links of an earlier configuration may."""
    for path in ("/login/provider", "/login/callback?state=a&code=b"):
        answer = client.get(f"http://testserver{path}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


@pytest.mark.slow
def test_a_browser_goes_there_and_back(settings: Settings) -> None:
    """By the link of the form, in a real browser; the form, and a page with a choice of projects, are accessible."""
    application = create_app(settings)
    with serve(application) as url, tab(url, expected="/authorize") as page:
        settings.public_url = url
        page.goto("/login")
        assert Axe().run(page).response["violations"] == []
        page.get_by_role("link", name="Sign in at").click()
        page.get_by_text("ann@example.org (248289761001), writer of search").wait_for()
        assert Axe().run(page).response["violations"] == []
        page.get_by_label("Project").select_option("ads")
        page.get_by_role("button", name="Show").click()
        page.get_by_text("reader of ads").wait_for()
