"""Keys of a provider as they are found: beside them may be others, for encryption, of kinds to come, or broken."""

import time

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from app.auth.id_token import IdTokenRefused, claims_of, read_set


def token(key: RSAKey | ECKey | OKPKey, algorithm: str) -> str:
    at = int(time.time())
    claims = {"iss": "i", "aud": "c", "sub": "s", "iat": at, "exp": at + 60, "nonce": "n"}
    return jwt.encode({"alg": algorithm, "kid": "k"}, claims, key, algorithms=[algorithm])


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 names the curve; older providers do not
@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSAKey.generate_key(2048, {"kid": "k"}), "RS256"),
        (RSAKey.generate_key(2048, {"kid": "k"}), "PS256"),
        (ECKey.generate_key("P-256", {"kid": "k"}), "ES256"),
        (OKPKey.generate_key("Ed25519", {"kid": "k"}), "Ed25519"),
        (OKPKey.generate_key("Ed25519", {"kid": "k"}), "EdDSA"),
    ],
)
def test_algorithms_in_use(key: RSAKey | ECKey | OKPKey, algorithm: str):
    """What providers sign with."""
    keys = read_set({"keys": [key.as_dict(private=False)]})
    assert claims_of(token(key, algorithm), keys, issuer="i", client_id="c", nonce="n")["sub"] == "s"


def test_keys_that_are_of_no_use():
    """A set of nothing else is refused: shared secrets, keys for encryption, texts."""
    encryption = RSAKey.generate_key(2048, {"use": "enc"}).as_dict(private=False)
    secret = OctKey.generate_key(256).as_dict()
    for keys in ([], [encryption], [secret], ["text", None, 7], None, {"kty": "RSA"}):
        with pytest.raises(IdTokenRefused, match="no key"):
            read_set({"keys": keys})


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "é.é.é", "." * 10_000, "eyJhbGciOiJSUzI1NiJ9..", "e30.e30."])
def test_what_is_no_token(text: str):
    """Refused, whatever it is."""
    keys = read_set({"keys": [RSAKey.generate_key(2048).as_dict(private=False)]})
    with pytest.raises(IdTokenRefused):
        claims_of(text, keys, issuer="i", client_id="c", nonce="n")
