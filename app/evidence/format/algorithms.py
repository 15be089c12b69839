"""Signature algorithms: what each makes of a private key, a public key and a message.

ML-DSA-65 (FIPS 204) needs a `cryptography` that has it; without one, its keys are refused and all others work.
"""

import hashlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_p256
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
else:
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
    except ImportError:  # an auditor's own `cryptography` may be older

        class MLDSA65PrivateKey: ...

        class MLDSA65PublicKey: ...


ALGORITHMS: Final = ("ed25519", "ecdsa-p256")  # of the key that signs; P-256 with SHA-256 is the FIPS 186 choice
POST_QUANTUM: Final = "ml-dsa-65"  # of a key that signs beside it

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | MLDSA65PublicKey
PrivateKeyInMemory = Ed25519PrivateKey | EllipticCurvePrivateKey | MLDSA65PrivateKey


class PrivateKeyElsewhere(Protocol):
    """A private key that is held outside this process: it signs on request, and its bytes cannot be read."""

    def public_key(self) -> PublicKey: ...
    def sign(self, message: bytes) -> bytes: ...


PrivateKey = PrivateKeyInMemory | PrivateKeyElsewhere


class KeyFileError(ValueError):
    """A key file that holds no usable key."""


def algorithm_of(public: PublicKey) -> str:
    if isinstance(public, Ed25519PublicKey):
        return "ed25519"
    return "ecdsa-p256" if isinstance(public, EllipticCurvePublicKey) else POST_QUANTUM


def sign(private: PrivateKey, message: bytes) -> bytes:
    if isinstance(private, EllipticCurvePrivateKey):
        return private.sign(message, ECDSA(hashes.SHA256()))
    return private.sign(message)


def verifies(public: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(public, EllipticCurvePublicKey):
            public.verify(signature, message, ECDSA(hashes.SHA256()))
        else:
            public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def generate_private(algorithm: str) -> PrivateKeyInMemory:
    """A new private key. Raises KeyFileError for an algorithm that is not known, or that this machine cannot do."""
    if algorithm == "ed25519":
        return Ed25519PrivateKey.generate()
    if algorithm == "ecdsa-p256":
        return generate_p256(SECP256R1())
    if algorithm == POST_QUANTUM:
        try:
            return MLDSA65PrivateKey.generate()
        except (AttributeError, UnsupportedAlgorithm):
            raise KeyFileError(f"this installation's `cryptography` has no {POST_QUANTUM}") from None
    known = ", ".join((*ALGORITHMS, POST_QUANTUM))
    raise KeyFileError(f"{algorithm!r} is not a signing algorithm; use one of {known}")


def read_private(pem: bytes, *, source: object) -> PrivateKeyInMemory:
    """The private key of a PEM file. Raises KeyFileError for another kind of key, and for one with a password."""
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{source} is not an unencrypted PEM private key: {error}") from None
    if isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP256R1):
        return private
    if isinstance(private, Ed25519PrivateKey | MLDSA65PrivateKey):
        return private
    raise KeyFileError(f"{source} holds another kind of key; use one of {', '.join(ALGORITHMS)}")


def read_public(pem: bytes) -> PublicKey:
    """The public key of a PEM file. Raises KeyFileError for another kind of key."""
    try:
        public: Any = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"not a PEM public key: {error}") from None
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return public
    if isinstance(public, Ed25519PublicKey | MLDSA65PublicKey):
        return public
    raise KeyFileError(f"another kind of key; use one of {', '.join((*ALGORITHMS, POST_QUANTUM))}")


def keyid(public: PublicKey) -> str:
    """SHA-256 of the key's DER SubjectPublicKeyInfo."""
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def public_pem(public: PublicKey) -> str:
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
