"""A session follows what the provider says of its person: groups, and whether there still is such a person."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.auth.tables import PersonSession
from app.db import Database, now
from app.main import create_app
from app.settings import Settings
from migrations.tables import tables
from tests.conftest import Deployment
from tests.provider import CLIENT, SECRET, SignInServer, serving

BASE = "http://127.0.0.1:8000"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


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
    given |= {"oidc_groups": "research=search:writer,chiefs=search:admin", "public_url": BASE}
    return deployment.settings.model_copy(update=given)


@pytest.fixture
def cookie(settings: Settings) -> dict[str, str]:
    """Of a person who has just signed in."""
    with browsing(settings) as browser:
        there = browser.get("/login/provider").headers["location"]
        parts = urlsplit(httpx2.get(there, follow_redirects=False).headers["location"])
        assert browser.get(f"{parts.path}?{parts.query}").status_code == 303
        return {"cookie": f"permafrost_session={browser.cookies['permafrost_session']}"}


@contextmanager
def browsing(settings: Settings) -> Iterator[TestClient]:
    """A process of the API that remembers nothing."""
    with TestClient(create_app(settings), base_url=BASE, follow_redirects=False) as browser:
        yield browser


def look(settings: Settings, cookie: dict[str, str]) -> Any:
    with browsing(settings) as browser:
        return browser.get("/", headers=cookie | {"accept": "text/html"})


def stored(settings: Settings, *, earlier: timedelta = timedelta()) -> list[PersonSession]:
    """The rows of sessions, after their times were moved back: so much later it is by them."""
    db = Database(settings.database)
    with db.write() as session:
        rows = session.query(PersonSession).all()
        for row in rows:
            row.created_at, row.expires_at = row.created_at - earlier, row.expires_at - earlier
            if row.checked_at and row.check_at:
                row.checked_at, row.check_at = row.checked_at - earlier, row.check_at - earlier
        session.flush()
        session.expunge_all()
    db.close()
    return rows


def test_a_group_that_is_lost_counts_no_longer(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """Nor does one that is won wait for the next sign-in: after a quarter of an hour the provider is asked again."""
    server.person["groups"] = ["chiefs"]
    assert "writer of search" in look(settings, cookie).text
    stored(settings, earlier=16 * MINUTE)
    assert "admin of search" in look(settings, cookie).text
    server.person["groups"] = []
    stored(settings, earlier=16 * MINUTE)
    assert look(settings, cookie).status_code == 401


def test_a_person_who_is_gone(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """The provider refuses the token: the session ends for good."""
    server.gone = True
    stored(settings, earlier=16 * MINUTE)
    assert look(settings, cookie).status_code == 401
    assert stored(settings) == []
    server.gone = False
    assert look(settings, cookie).status_code == 401


def test_each_token_is_used_once(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """Providers that see one twice take it for stolen, so the next one is stored every time, until the day is over."""
    server.asked.clear()
    for _ in range(3):
        stored(settings, earlier=16 * MINUTE)
        assert look(settings, cookie).status_code == 200
    assert server.asked.count("/token") == 3 and len(server.refresh_tokens) == 1
    stored(settings, earlier=12 * HOUR)
    assert look(settings, cookie).status_code == 401 and server.asked.count("/token") == 3


def test_one_request_asks_and_the_others_wait(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """After a night's pause nobody is let in by what was true in the evening."""
    server.asked.clear()
    server.person["groups"] = ["strangers"]
    stored(settings, earlier=3 * HOUR)
    together = threading.Barrier(6)
    with browsing(settings) as browser, browsing(settings) as other, ThreadPoolExecutor(6) as threads:

        def ask(number: int) -> int:
            together.wait()
            return (browser if number % 2 else other).get("/v1/fine_tuning/jobs", headers=cookie).status_code

        assert set(threads.map(ask, range(6))) == {401}
    assert server.asked.count("/token") == 1


def test_a_provider_that_is_away_for_a_while(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """The session goes on for an hour, with a question each minute, and then ends: nobody knows who may do what."""
    server.fails["/token"] = (503, b"")
    stored(settings, earlier=16 * MINUTE)
    server.asked.clear()
    for _ in range(2):
        assert look(settings, cookie).status_code == 200
    assert server.asked.count("/token") == 1
    server.fails.clear()
    stored(settings, earlier=2 * MINUTE)
    assert look(settings, cookie).status_code == 200 and server.asked.count("/token") == 2
    server.fails["/token"] = (503, b"")
    stored(settings, earlier=16 * MINUTE + HOUR)
    assert look(settings, cookie).status_code == 401 and stored(settings) == []


def test_a_service_that_the_provider_does_not_know_any_more(settings: Settings, cookie: dict[str, str]):
    """A changed client secret says nothing about the person: as a provider that is away."""
    others = settings.model_copy(update={"oidc_client_secret": SecretStr("old")})
    stored(settings, earlier=16 * MINUTE)
    assert look(others, cookie).status_code == 200
    stored(settings, earlier=2 * MINUTE)
    assert look(settings, cookie).status_code == 200


@pytest.mark.parametrize("id_token", [False, True])
def test_userinfo_is_asked_where_the_tokens_say_too_little(
    settings: Settings, server: SignInServer, cookie: dict[str, str], id_token: bool
):
    """Not every provider gives an ID token again, or one with groups."""
    server.refreshed_id_token, server.in_userinfo = id_token, ("groups",)
    server.person["groups"] = ["chiefs"]
    stored(settings, earlier=16 * MINUTE)
    assert "admin of search" in look(settings, cookie).text


@pytest.mark.parametrize("claims", [{"sub": "eve"}, {"aud": "another"}, {"iss": "https://evil.example"}])
def test_an_answer_about_another_ends_the_session(
    settings: Settings, server: SignInServer, cookie: dict[str, str], claims: dict[str, str]
):
    """Another person, client or issuer: what is asked for anew proves as much as at the sign-in."""
    server.claims = claims
    stored(settings, earlier=16 * MINUTE)
    assert look(settings, cookie).status_code == 401 and stored(settings) == []


def test_the_token_is_sealed(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """Under the key file, for this row: a copy of the database opens nothing, and without the key it is no token."""
    (token,) = server.refresh_tokens
    (row,) = stored(settings)
    assert row.refresh_token is not None and token.encode() not in row.refresh_token
    settings.webhook_key_path.write_bytes(b"k" * 32)
    stored(settings, earlier=16 * MINUTE)
    assert look(settings, cookie).status_code == 401 and stored(settings) == []


def test_signing_out_meanwhile(settings: Settings, server: SignInServer, cookie: dict[str, str]):
    """An answer that comes for a session that was ended does not bring it back."""
    stored(settings, earlier=16 * MINUTE)
    with browsing(settings) as browser, browsing(settings) as other:
        asked = server.refresh

        def sign_out_first(form: dict[str, str], authorization: str) -> Any:
            assert other.post("/logout", headers=cookie | {"origin": BASE}).status_code == 303
            return asked(form, authorization)

        server.refresh = sign_out_first  # type: ignore[method-assign]
        assert browser.get("/v1/fine_tuning/jobs", headers=cookie).status_code == 401
    assert stored(settings) == []


class TestWithoutRefreshTokens:
    """Of providers that give none, or not for the scopes that were asked for."""

    @pytest.fixture
    def server(self, server: SignInServer) -> SignInServer:
        server.refreshes = False
        return server

    def test_a_session_is_short(self, settings: Settings, server: SignInServer, cookie: dict[str, str]):
        """An hour, in which nobody is asked; a longer time between questions is taken at its word."""
        (row,) = stored(settings)
        assert (row.expires_at - row.created_at, row.check_at, row.refresh_token) == (HOUR, None, None)
        stored(settings, earlier=59 * MINUTE)
        server.asked.clear()
        assert look(settings, cookie).status_code == 200 and server.asked == []
        stored(settings, earlier=2 * MINUTE)
        assert look(settings, cookie).status_code == 401


def test_the_rows_clock_is_the_databases(settings: Settings, cookie: dict[str, str]):
    """A quarter of an hour from the sign-in, unless the settings say otherwise."""
    (row,) = stored(settings)
    assert row.check_at is not None and row.checked_at is not None
    assert row.check_at - row.checked_at == 15 * MINUTE
    db = Database(settings.database)
    with db.read() as session:
        assert timedelta() <= now(session) - row.checked_at < HOUR
    db.close()
