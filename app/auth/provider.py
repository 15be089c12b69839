"""A sign-in provider by OpenID Connect: the authorization code flow with PKCE (Core 1.0, RFC 7636, RFC 9700).

Keys are read anew for each sign-in, so a provider may change them at any time; its addresses are kept for minutes.
"""

import base64
import hashlib
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlencode

import httpx2

from app.auth.id_token import IdTokenRefused, claims_of, read_set
from app.auth.person import Person
from app.jsontypes import JsonDict
from app.settings import Settings

#: Where the provider sends the browser back to, below PERMAFROST_PUBLIC_URL.
CALLBACK: Final = "/login/callback"
_DISCOVERY: Final = "/.well-known/openid-configuration"
_METADATA_SECONDS: Final = 300.0
_TIMEOUT: Final = httpx2.Timeout(10.0, connect=5.0)
#: Of one answer: key sets and tokens with hundreds of groups have some tens of kilobytes.
_MAX_BYTES: Final = 1 << 20


class SignInRefused(Exception):
    """The provider, or what it says, does not let this person in. The message is for the person."""


class ProviderAway(Exception):
    """The provider does not answer, or not as one does. The message is for the person."""


@dataclass(frozen=True, slots=True)
class SignInAttempt:
    """What ties an answer of the provider to this browser and to the request that it answers."""

    state: str
    nonce: str
    verifier: str
    #: Where on this service the browser goes afterwards.
    next: str
    #: Unix time.
    until: float

    @classmethod
    def begin(cls, next: str, *, seconds: float) -> Self:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, next, time.time() + seconds)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True)
class _Metadata:
    """What is used of the provider's discovery document."""

    authorization: str
    token: str
    keys: str
    userinfo: str | None
    #: Whether the token endpoint takes a client's secret in the body alone.
    secret_in_body: bool


@dataclass(slots=True)
class Provider:
    """One provider, and how this service is registered there. Coroutines: no worker thread waits for a provider."""

    settings: Settings
    _metadata: _Metadata | None = None
    _read_at: float = field(default=0.0)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings)

    async def authorization_url(self, attempt: SignInAttempt) -> str:
        """Where the browser goes to sign in. Raises ProviderAway."""
        async with self._client() as client:
            metadata = await self._discover(client)
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.settings.oidc_client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self.settings.oidc_scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return metadata.authorization + ("&" if "?" in metadata.authorization else "?") + urlencode(asked)

    async def redeem(self, code: str, attempt: SignInAttempt) -> Person:
        """The person for whom the provider gave the code. Raises SignInRefused or ProviderAway."""
        async with self._client() as client:
            metadata = await self._discover(client)
            tokens = await self._tokens(client, metadata, code, attempt)
            keys = await _ask(client, "GET", metadata.keys)
            try:
                claims = claims_of(
                    str(tokens.get("id_token", "")),
                    read_set(keys),
                    issuer=self.settings.oidc_issuer,
                    client_id=self.settings.oidc_client_id,
                    nonce=attempt.nonce,
                )
            except IdTokenRefused as error:
                raise SignInRefused(f"What the sign-in provider says cannot be trusted: {error}.") from None
            if self.settings.oidc_groups_claim not in claims and metadata.userinfo:
                claims = await self._with_userinfo(client, metadata.userinfo, tokens, claims)
        return self._person(claims)

    async def _discover(self, client: httpx2.AsyncClient) -> _Metadata:
        """The provider's addresses, which have to be its own: the document names the issuer that was configured."""
        if self._metadata is not None and time.monotonic() - self._read_at < _METADATA_SECONDS:
            return self._metadata
        document = await _ask(client, "GET", self.settings.oidc_issuer.rstrip("/") + _DISCOVERY)
        if document.get("issuer") != self.settings.oidc_issuer:
            raise ProviderAway(
                "The sign-in provider calls itself otherwise than PERMAFROST_OIDC_ISSUER does: "
                f"{str(document.get('issuer'))[:200]!r}."
            )
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        self._metadata = _Metadata(
            authorization=_endpoint(document, "authorization_endpoint"),
            token=_endpoint(document, "token_endpoint"),
            keys=_endpoint(document, "jwks_uri"),
            userinfo=_endpoint(document, "userinfo_endpoint") if document.get("userinfo_endpoint") else None,
            secret_in_body="client_secret_basic" not in methods,
        )
        self._read_at = time.monotonic()
        return self._metadata

    async def _tokens(
        self, client: httpx2.AsyncClient, metadata: _Metadata, code: str, attempt: SignInAttempt
    ) -> JsonDict:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": attempt.verifier,
        }
        client_id, secret = self.settings.oidc_client_id, self.settings.oidc_client_secret.get_secret_value()
        headers = {}
        if secret and not metadata.secret_in_body:
            headers["authorization"] = _basic(client_id, secret)
        else:
            form |= {"client_id": client_id} | ({"client_secret": secret} if secret else {})
        return await _ask(client, "POST", metadata.token, data=form, headers=headers)

    async def _with_userinfo(
        self, client: httpx2.AsyncClient, url: str, tokens: JsonDict, claims: JsonDict
    ) -> JsonDict:
        """Claims that are too many for a token are often there alone; the answer has to be about the same person."""
        headers = {"authorization": f"Bearer {tokens.get('access_token', '')}"}
        more = await _ask(client, "GET", url, headers=headers)
        if more.get("sub") != claims["sub"]:
            raise SignInRefused("The sign-in provider's two answers are about different people.")
        return more | claims

    def _person(self, claims: JsonDict) -> Person:
        given = claims.get(self.settings.oidc_groups_claim, [])
        groups = given if isinstance(given, list) else [given]
        names = (claims.get(claim) for claim in ("email", "preferred_username", "name", "sub"))
        name = next(name for name in names if isinstance(name, str) and name)
        return Person(
            subject=claims["sub"], name=_shown(name), groups=tuple(each for each in groups if isinstance(each, str))
        )

    @property
    def _redirect_uri(self) -> str:
        return self.settings.public_url.rstrip("/") + CALLBACK

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=_TIMEOUT, follow_redirects=False)


async def _ask(client: httpx2.AsyncClient, method: str, url: str, **content: Any) -> JsonDict:
    """The JSON object that the provider answers with. Raises ProviderAway, and SignInRefused where it refuses."""
    try:
        async with client.stream(method, url, **content) as answer:
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ProviderAway("The sign-in provider answers with too much.")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ProviderAway(f"The sign-in provider does not answer ({type(error).__name__}).") from None
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if 400 <= answer.status_code < 500 and isinstance(said, dict) and "error" in said:
        raise SignInRefused(f"The sign-in provider refuses: {_shown(str(said['error']))}.")
    if answer.status_code != 200 or not isinstance(said, dict):
        raise ProviderAway(f"The sign-in provider answers {answer.status_code}, and not as one does.")
    return said


def _endpoint(document: JsonDict, name: str) -> str:
    url = document.get(name)
    if not isinstance(url, str) or not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", url):
        raise ProviderAway(f"The sign-in provider's document has no {name} with https.")
    return url


def _basic(client_id: str, secret: str) -> str:
    """Both are form-encoded first (RFC 6749, 2.3.1), which HTTP Basic elsewhere is not."""
    name, password = (urlencode({"": each})[1:] for each in (client_id, secret))
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _shown(text: str) -> str:
    """A text of the provider as pages and logs may show it."""
    return "".join(each if each.isprintable() else " " for each in text)[:60]
