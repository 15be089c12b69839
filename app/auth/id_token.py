"""What an ID token has to prove before its claims are believed (OpenID Connect Core 1.0, section 3.1.3.7)."""

import hmac
from typing import TYPE_CHECKING, Any, Final

from app.jsontypes import JsonDict

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

#: Signatures by a key pair of the provider alone: with `none` or a shared secret anybody could be the provider.
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "Ed25519",
    "EdDSA",
)
#: Clocks of two machines differ by some seconds.
_LEEWAY_SECONDS: Final = 60
_MAX_SUBJECT: Final = 255


class IdTokenRefused(Exception):
    """The token does not prove what it has to. The message says which part."""


def read_set(document: JsonDict) -> "KeySet":
    """The provider's keys for signatures. Keys of kinds that are not known here are left out. Raises IdTokenRefused."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry, KeySet

    keys: list[Any] = []
    given = document.get("keys")
    for each in given if isinstance(given, list) else []:
        try:
            if each.get("use", "sig") == "sig" and each.get("kty") != "oct":
                keys.append(JWKRegistry.import_key(each))
        except (JoseError, ValueError, TypeError, AttributeError, KeyError):
            continue  # of a kind to come, or broken: the token names the one that it needs
    if not keys:
        raise IdTokenRefused("the provider shows no key that can be used")
    return KeySet(keys)


def claims_of(token: str, keys: "KeySet", *, issuer: str, client_id: str, nonce: str | None) -> JsonDict:
    """The claims of a token that this provider signed for this client and this very sign-in. Raises IdTokenRefused.

    One that came for a refresh token answers no sign-in, and has no nonce to compare.
    """
    from joserfc import jwt
    from joserfc.errors import JoseError

    try:
        claims: JsonDict = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
    except (JoseError, ValueError) as error:
        raise IdTokenRefused(f"its signature is not good ({type(error).__name__})") from None

    needed = jwt.JWTClaimsRegistry(
        leeway=_LEEWAY_SECONDS,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    )
    try:
        needed.validate(claims)
    except (JoseError, ValueError, TypeError) as error:
        raise IdTokenRefused(str(error).partition(": ")[2] or type(error).__name__) from None
    _check_party(claims, client_id)
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise IdTokenRefused("it is the answer to another sign-in (nonce)")
    if not 1 <= len(claims["sub"]) <= _MAX_SUBJECT:
        raise IdTokenRefused("its subject is empty or too long")
    return claims


def _check_party(claims: JsonDict, client_id: str) -> None:
    """Of several audiences, and wherever it is named, the authorized party has to be this client."""
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    party = claims.get("azp", client_id if len(audiences) == 1 else None)
    if party != client_id:
        raise IdTokenRefused("it was made for another client (azp)")
