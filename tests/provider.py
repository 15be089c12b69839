"""A sign-in provider on loopback: OpenID Connect's code flow with PKCE, RS256 keys, and ways to get it wrong."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.listening import QuietHandler, listening

CLIENT, SECRET = "permafrost", "s3cret & %"
PERSON = {"sub": "248289761001", "email": "ann@example.org", "groups": ["research"]}


@dataclass
class SignInServer:
    """Everybody who asks is signed in as `person` at once. The other fields are what a test changes."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: dict(PERSON))
    claims: dict[str, Any] = field(default_factory=dict)  # in the place of the right ones; None leaves one out
    document: dict[str, Any] = field(default_factory=dict)  # likewise, of the discovery document
    header: dict[str, Any] = field(default_factory=dict)  # likewise, of the token's header
    in_userinfo: tuple[str, ...] = ()  # claims that the token lacks
    userinfo: dict[str, Any] = field(default_factory=dict)
    refuses: str = ""  # the error with which it sends browsers back
    fails: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # answers by path
    shared_secret: bool = False  # signs by HS256 with the public key, as forgers do
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    client_secret: str = SECRET
    refreshes: bool = True  # gives a refresh token beside the others
    refreshed_id_token: bool = True  # and an ID token again for it, without a nonce
    gone: bool = False  # the person: refresh tokens are refused
    refresh_tokens: list[str] = field(default_factory=list)  # each is taken once

    @cached_property
    def key(self) -> RSAKey:
        return RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})

    def discovery(self) -> dict[str, Any]:
        paths = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
        endpoints = {f"{name}_endpoint": f"{self.url}/{path}" for name, path in paths.items()}
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **endpoints} | self.document

    def keys(self) -> dict[str, Any]:
        """The key, beside one of a kind that nobody knows and a broken one."""
        strange = [
            {"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AA"},
            {"kty": "RSA", "kid": "torn", "n": "AQ"},
        ]
        return {"keys": [*strange, self.key.as_dict(private=False)]}

    def answer(self, path: str, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and body of what is asked for in the browser's absence."""
        if path == "/token":
            return self.tokens(form, authorization)
        if path == "/userinfo" and authorization == "Bearer access":
            return 200, self.person | self.userinfo
        documents = {"/.well-known/openid-configuration": self.discovery, "/keys": self.keys}
        return (200, documents[path]()) if path in documents else (404, {})

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        assert query["client_id"] == CLIENT and query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split() and query["response_type"] == "code"
        code = hashlib.sha256(query["state"].encode()).hexdigest()
        self.codes[code] = query
        given = {"error": self.refuses} if self.refuses else {"code": code}
        return f"{query['redirect_uri']}?{urlencode(given | {'state': query['state'], 'iss': self.url})}"

    def tokens(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        return (self.refresh if form["grant_type"] == "refresh_token" else self.redeem)(form, authorization)

    def refresh(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        if self._login(form, authorization) != (CLIENT, self.client_secret):
            return 401, {"error": "invalid_client"}
        if self.gone or form["refresh_token"] not in self.refresh_tokens:
            return 400, {"error": "invalid_grant"}
        self.refresh_tokens.remove(form["refresh_token"])
        said = self._tokens_for({})
        if not self.refreshed_id_token:
            del said["id_token"]
        return 200, said

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = _base64(digest)
        if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if self._login(form, authorization) != (CLIENT, self.client_secret):
            return 401, {"error": "invalid_client"}
        return 200, self._tokens_for({"nonce": asked["nonce"]})

    def _tokens_for(self, more: dict[str, str]) -> dict[str, Any]:
        at = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": at, "exp": at + 300, **more, **self.person} | self.claims
        left = {name: value for name, value in claims.items() if value is not None and name not in self.in_userinfo}
        said = {"access_token": "access", "token_type": "Bearer", "id_token": self._signed(left)}
        if self.refreshes:
            self.refresh_tokens.append(f"refresh-{secrets.token_hex(8)}")
            said["refresh_token"] = self.refresh_tokens[-1]
        return said

    def _signed(self, claims: dict[str, Any]) -> str:
        if self.header.get("alg") == "none":
            return f"{_part({'alg': 'none'})}.{_part(claims)}."
        if self.shared_secret:
            text = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{_part(claims)}"
            return f"{text}.{_base64(hmac.digest(self.key.as_pem(private=False), text.encode(), 'sha256'))}"
        return jwt.encode({"alg": "RS256", "kid": "one"} | self.header, claims, self.key)

    def _login(self, form: dict[str, str], authorization: str) -> tuple[str, str]:
        if authorization:
            name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            return unquote_plus(name), unquote_plus(password)
        return form["client_id"], form.get("client_secret", "")


def _part(part: dict[str, Any]) -> str:
    return _base64(json.dumps(part).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def serving() -> Iterator[SignInServer]:
    provider = SignInServer()
    with listening(_handler(provider)) as provider.url:
        yield provider


def _handler(provider: SignInServer) -> type[BaseHTTPRequestHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/authorize":
                self._send(302, b"", location=provider.authorize(query))
            else:
                self._answer(parts.path, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._answer(self.path, {name: values[0] for name, values in parse_qs(body).items()})

        def _answer(self, path: str, form: dict[str, str]) -> None:
            provider.asked.append(path)
            if path in provider.fails:
                self._send(*provider.fails[path])
                return
            status, body = provider.answer(path, form, self.headers.get("authorization", ""))
            self._send(status, json.dumps(body).encode())

        def _send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
