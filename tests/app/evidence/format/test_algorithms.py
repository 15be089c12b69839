"""Signature algorithms: Ed25519, P-256 and ML-DSA-65."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.evidence.format import algorithms
from app.evidence.format.algorithms import (
    ALGORITHMS,
    POST_QUANTUM,
    KeyFileError,
    algorithm_of,
    generate_private,
    keyid,
    public_pem,
    read_private,
    read_public,
    sign,
    verifies,
)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, POST_QUANTUM])
def test_a_signature_is_of_one_message_under_one_key(algorithm: str) -> None:
    """Through PEM and back, and nothing else verifies: no other message, key, or half a signature."""
    private = generate_private(algorithm)
    public = read_public(public_pem(private.public_key()).encode())
    assert algorithm_of(public) == algorithm and keyid(public) == keyid(private.public_key())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert public_pem(read_private(pem, source="x").public_key()) == public_pem(public)
    signature = sign(private, b"message")
    assert verifies(public, signature, b"message")
    assert not verifies(public, signature, b"massage")
    assert not verifies(public, signature[:-1], b"message")
    assert not verifies(public, b"", b"message")
    for other in (*ALGORITHMS, POST_QUANTUM):
        assert not verifies(generate_private(other).public_key(), signature, b"message")


def test_other_kinds_of_keys_are_refused() -> None:
    """RSA, other curves, the other sizes of ML-DSA: by what would work."""
    for private in (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        mldsa.MLDSA44PrivateKey.generate(),
    ):
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(KeyFileError, match=r"k\.pem holds another kind of key; use one of ed25519"):
            read_private(pem, source="k.pem")
        with pytest.raises(KeyFileError, match="ml-dsa-65"):
            read_public(public_pem(private.public_key()).encode())  # type: ignore[arg-type]
    with pytest.raises(KeyFileError, match="not a signing algorithm"):
        generate_private("rsa")


def test_a_cryptography_without_ml_dsa_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An auditor's installation may be older; the other algorithms work there all the same."""

    class Missing: ...

    monkeypatch.setattr(algorithms, "MLDSA65PrivateKey", Missing)
    with pytest.raises(KeyFileError, match="has no ml-dsa-65"):
        generate_private(POST_QUANTUM)
    assert generate_private("ed25519")
