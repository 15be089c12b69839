"""A provider's word is believed with its signature, for this client and this very sign-in, and not otherwise."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from pydantic import SecretStr

from app.auth.person import Person
from app.auth.provider import Provider, ProviderAway, SignInAttempt, SignInRefused
from app.settings import Settings
from tests.provider import CLIENT, SECRET, SignInServer, serving


@pytest.fixture
def server() -> Iterator[SignInServer]:
    with serving() as provider:
        yield provider


def settings(server: SignInServer, **others: Any) -> Settings:
    ours: dict[str, Any] = {
        "oidc_issuer": server.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SecretStr(SECRET),
    }
    ours |= {"oidc_groups": "research=search:writer", "public_url": "http://127.0.0.1:8000"}
    return Settings(**(ours | others))


def sign_in(server: SignInServer, *, attempt: SignInAttempt | None = None, **others: Any) -> Person:
    """Goes to the provider as a browser does, and redeems the code that comes back."""
    provider = Provider(settings(server, **others))
    begun = SignInAttempt.begin("/", seconds=60)
    url = asyncio.run(provider.authorization_url(begun))
    back = httpx2.get(url, follow_redirects=False).headers["location"]
    assert back.startswith("http://127.0.0.1:8000/login/callback?")
    code = parse_qs(urlsplit(back).query)["code"][0]
    return asyncio.run(provider.redeem(code, attempt or begun)).person


def test_a_person_with_groups(server: SignInServer):
    """The name is for showing; the subject is who it is. Keys of unknown kinds beside the right one do no harm."""
    assert sign_in(server) == Person("248289761001", "ann@example.org", ("research",))


@pytest.mark.parametrize("public", [False, True])
def test_a_secret_in_the_body_and_a_client_without_one(server: SignInServer, public: bool):
    """As the provider's document says; PKCE protects a client without a secret."""
    server.document = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    server.client_secret = "" if public else SECRET
    assert sign_in(server, oidc_client_secret=SecretStr("" if public else SECRET)).subject


def test_groups_that_only_userinfo_has(server: SignInServer):
    """Asked for with the access token, and only then."""
    server.in_userinfo = ("groups",)
    assert sign_in(server).groups == ("research",)
    server.in_userinfo, server.asked = (), []
    sign_in(server)
    assert "/userinfo" not in server.asked


def test_userinfo_about_another_person_is_refused(server: SignInServer):
    """An access token that was exchanged would bring another's groups."""
    server.in_userinfo, server.userinfo = ("groups",), {"sub": "eve"}
    with pytest.raises(SignInRefused, match="different people"):
        sign_in(server)


def test_one_group_as_a_text_and_groups_that_are_none(server: SignInServer):
    """Some providers write a single group without a list; what is no text is no group."""
    server.person["roles"] = "research"
    assert sign_in(server, oidc_groups_claim="roles").groups == ("research",)
    server.person["groups"] = ["research", 7, None, {"a": 1}]
    assert sign_in(server).groups == ("research",)
    server.person["groups"] = None
    assert sign_in(server).groups == ()


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://evil.example"}, "'iss'"),
        ({"iss": None}, "'iss'"),
        ({"aud": "another-client"}, "'aud'"),
        ({"aud": ["another-client"]}, "'aud'"),
        ({"aud": [CLIENT, "another-client"]}, "azp"),
        ({"azp": "another-client"}, "azp"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"exp": None}, "'exp'"),
        ({"exp": "9999999999"}, "'exp'"),
        ({"iat": int(time.time()) + 3600}, "iat|not yet|future"),
        ({"nonce": "of-another-sign-in"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": None}, "'sub'"),
        ({"sub": 7}, "'sub'"),
        ({"sub": "x" * 256}, "subject"),
    ],
)
def test_claims_that_prove_too_little(server: SignInServer, claims: dict[str, Any], why: str):
    """Another issuer, client, time or sign-in: the signature alone says nothing."""
    server.claims = claims
    with pytest.raises(SignInRefused, match=why):
        sign_in(server)


def test_several_audiences_with_this_party(server: SignInServer):
    """What was made for this client is taken, whoever else may read it."""
    server.claims = {"aud": [CLIENT, "another"], "azp": CLIENT}
    assert sign_in(server).subject


@pytest.mark.parametrize("header", [{"alg": "none"}, {"kid": "two"}, {"kid": "torn"}])
def test_signatures_of_nobody(server: SignInServer, header: dict[str, Any]):
    """Without a signature, or by a key that the provider does not show."""
    server.header = header
    with pytest.raises(SignInRefused, match="signature"):
        sign_in(server)


def test_a_public_key_as_a_shared_secret_is_refused(server: SignInServer):
    """A token by HS256 over the public key's text is one that everybody can make."""
    server.shared_secret = True
    with pytest.raises(SignInRefused, match="signature"):
        sign_in(server)


def test_a_key_changed_by_the_provider_is_taken(server: SignInServer):
    """The same `Provider` reads the keys of the moment."""
    provider = Provider(settings(server))
    for _ in range(2):
        server.__dict__.pop("key", None)
        begun = SignInAttempt.begin("/", seconds=60)
        back = httpx2.get(asyncio.run(provider.authorization_url(begun)), follow_redirects=False).headers["location"]
        assert asyncio.run(provider.redeem(parse_qs(urlsplit(back).query)["code"][0], begun)).person.subject


def test_a_code_of_another_browser_is_refused(server: SignInServer):
    """PKCE: the code is worth nothing without the verifier of the browser that began."""
    with pytest.raises(SignInRefused, match="invalid_grant"):
        sign_in(server, attempt=SignInAttempt.begin("/", seconds=60))


def test_a_wrong_client_secret_is_said(server: SignInServer):
    """By the provider's own word for it, without the secret."""
    with pytest.raises(SignInRefused, match="invalid_client") as refused:
        sign_in(server, oidc_client_secret=SecretStr("wrong-one"))
    assert "wrong-one" not in str(refused.value)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"issuer": "https://evil.example"}, "calls itself otherwise"),
        ({"authorization_endpoint": "http://evil.example/a"}, "authorization_endpoint"),
        ({"jwks_uri": "http://127.0.0.1.evil.example/a"}, "jwks_uri"),
        ({"token_endpoint": None}, "token_endpoint"),
    ],
)
def test_a_document_of_another_is_refused(server: SignInServer, document: dict[str, Any], why: str):
    """Its issuer is the configured one, to the letter, and its addresses have TLS beyond loopback."""
    server.document = document
    with pytest.raises(ProviderAway, match=why):
        sign_in(server)


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys", "/token"])
@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"away"), (200, b"[1]"), (200, b"\xff"), (200, b'{"a": ' * 100_000), (302, b""), (200, b" " * (2 << 20))],
)
def test_a_provider_that_answers_otherwise(server: SignInServer, path: str, status: int, body: bytes):
    """Away, broken, endless or redirecting: an error that says so."""
    server.fails[path] = (status, body)
    with pytest.raises(ProviderAway):
        sign_in(server)


def test_a_provider_that_is_not_there():
    """No connection: an error that names no inner detail."""
    with serving() as server:
        gone = settings(server)
    with pytest.raises(ProviderAway, match="does not answer"):
        asyncio.run(Provider(gone).authorization_url(SignInAttempt.begin("/", seconds=60)))


def test_an_attempt_survives_its_cookie():
    """What is sealed is what comes back."""
    begun = SignInAttempt.begin("/jobs/a?b=c", seconds=60)
    assert SignInAttempt.from_bytes(begun.to_bytes()) == begun
