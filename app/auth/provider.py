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
#: Of a refresh token; those that are JWTs have some kilobytes.
_MAX_REFRESH_TOKEN: Final = 1 << 14


class SignInRefused(Exception):
    """The provider, or what it says, does not let this person in. The message is for the person."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        #: The provider's own word, where it refused by itself.
        self.code = code


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
class VouchedFor:
    """A person, and the token by which the provider can be asked about them again, if it gave one."""

    person: Person
    refresh_token: str | None = field(repr=False)


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

    async def redeem(self, code: str, attempt: SignInAttempt) -> VouchedFor:
        """The person for whom the provider gave the code. Raises SignInRefused or ProviderAway."""
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": attempt.verifier}
        async with self._client() as client:
            metadata = await self._discover(client)
            tokens = await self._tokens(client, metadata, form | {"redirect_uri": self._redirect_uri})
            claims = await self._identity(client, metadata, tokens, nonce=attempt.nonce)
            claims = await self._with_groups(client, metadata, tokens, claims)
        return VouchedFor(self._person(claims), _refresh_token(tokens))

    async def ask_again(self, refresh_token: str, subject: str) -> VouchedFor:
        """What the provider says of the person now (OpenID Connect Core 1.0, section 12), and the next token to ask by.

        Raises SignInRefused where it vouches for them no longer. Every other refusal is about this service, not about
        the person: ProviderAway.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        async with self._client() as client:
            metadata = await self._discover(client)
            try:
                tokens = await self._tokens(client, metadata, form)
            except SignInRefused as refused:
                if refused.code == "invalid_grant":
                    raise
                raise ProviderAway(str(refused)) from None
            claims: JsonDict = {"sub": subject}
            if "id_token" in tokens:
                claims = await self._identity(client, metadata, tokens, nonce=None)
            if claims["sub"] != subject:
                raise SignInRefused("The sign-in provider's two answers are about different people.")
            claims = await self._with_groups(client, metadata, tokens, claims)
        return VouchedFor(self._person(claims), _refresh_token(tokens) or refresh_token)

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

    async def _tokens(self, client: httpx2.AsyncClient, metadata: _Metadata, form: dict[str, str]) -> JsonDict:
        client_id, secret = self.settings.oidc_client_id, self.settings.oidc_client_secret.get_secret_value()
        headers = {}
        if secret and not metadata.secret_in_body:
            headers["authorization"] = _basic(client_id, secret)
        else:
            form = form | {"client_id": client_id} | ({"client_secret": secret} if secret else {})
        return await _ask(client, "POST", metadata.token, data=form, headers=headers)

    async def _identity(
        self, client: httpx2.AsyncClient, metadata: _Metadata, tokens: JsonDict, *, nonce: str | None
    ) -> JsonDict:
        """The claims of the ID token, once they are known to be the provider's."""
        keys = await _ask(client, "GET", metadata.keys)
        try:
            return claims_of(
                str(tokens.get("id_token", "")),
                read_set(keys),
                issuer=self.settings.oidc_issuer,
                client_id=self.settings.oidc_client_id,
                nonce=nonce,
            )
        except IdTokenRefused as error:
            raise SignInRefused(f"What the sign-in provider says cannot be trusted: {error}.") from None

    async def _with_groups(
        self, client: httpx2.AsyncClient, metadata: _Metadata, tokens: JsonDict, claims: JsonDict
    ) -> JsonDict:
        """Claims that are too many for a token are often in the userinfo; it has to be about the same person."""
        if self.settings.oidc_groups_claim in claims or not metadata.userinfo:
            return claims
        headers = {"authorization": f"Bearer {tokens.get('access_token', '')}"}
        more = await _ask(client, "GET", metadata.userinfo, headers=headers)
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
        code = _shown(str(said["error"]))
        raise SignInRefused(f"The sign-in provider refuses: {code}.", code=code)
    if answer.status_code != 200 or not isinstance(said, dict):
        raise ProviderAway(f"The sign-in provider answers {answer.status_code}, and not as one does.")
    return said


def _refresh_token(tokens: JsonDict) -> str | None:
    given = tokens.get("refresh_token")
    return given if isinstance(given, str) and 0 < len(given) <= _MAX_REFRESH_TOKEN else None


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
