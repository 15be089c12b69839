"""Signing keys: private keys in files, and key rings of public keys with the dates between which each is valid.

The algorithm of a signature always comes from the trusted key, never from the document that is verified.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.evidence.format import algorithms
from app.evidence.format.algorithms import (
    ALGORITHMS,
    POST_QUANTUM,
    KeyFileError,
    PrivateKey,
    PublicKey,
    algorithm_of,
    generate_private,
    keyid,
    public_pem,
    read_private,
    read_public,
)
from app.evidence.format.strict import JsonError, read_json, repeated_keys

__all__ = ["ALGORITHMS", "POST_QUANTUM", "KeyFileError", "SigningKey", "TrustedKey", "keyid"]

BESIDE = "post_quantum"  # the list of a key ring with keys that sign beside one of `data`


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; `keyid` is the SHA-256 of its public half (DER SubjectPublicKeyInfo)."""

    private: PrivateKey

    @property
    def algorithm(self) -> str:
        return algorithm_of(self.private.public_key())

    @property
    def public_pem(self) -> str:
        return public_pem(self.private.public_key())

    @property
    def keyid(self) -> str:
        return keyid(self.private.public_key())

    def sign(self, message: bytes) -> bytes:
        """The signature of a message. Raises SignerUnavailable where a command of the operator's signs, and did not."""
        return algorithms.sign(self.private, message)


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key and the dates between which it is valid. A revoked key is not valid at any date."""

    pem: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked_at: datetime | None = None
    introduced_by: dict[str, Any] | None = None  # DSSE envelope of the key before it

    @property
    def public(self) -> PublicKey:
        return read_public(self.pem.encode())

    @property
    def keyid(self) -> str:
        return keyid(self.public)

    @property
    def algorithm(self) -> str:
        return algorithm_of(self.public)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        return algorithms.verifies(self.public, signature, message)

    def refusal(self, issued_at: datetime) -> str | None:
        """The reason why this key is not valid for a statement of this date, or None."""
        if self.revoked_at:
            return f"key {self.keyid} was revoked at {iso(self.revoked_at)}"
        if self.not_before and issued_at < self.not_before:
            return f"issued at {iso(issued_at)}, before key {self.keyid} became valid at {iso(self.not_before)}"
        if self.not_after and issued_at > self.not_after:
            return f"issued at {iso(issued_at)}, after key {self.keyid} expired at {iso(self.not_after)}"
        return None

    def narrowed(self, other: "TrustedKey") -> "TrustedKey":
        """The key with the validity that both sources agree on."""
        return TrustedKey(
            self.pem,
            not_before=max(filter(None, (self.not_before, other.not_before)), default=None),
            not_after=min(filter(None, (self.not_after, other.not_after)), default=None),
            revoked_at=min(filter(None, (self.revoked_at, other.revoked_at)), default=None),
            introduced_by=self.introduced_by or other.introduced_by,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.keyid,
            "object": "signing_key",
            "algorithm": self.algorithm,
            "public_key": self.pem,
            "not_before": iso(self.not_before),
            "not_after": iso(self.not_after),
            "revoked_at": iso(self.revoked_at),
            "introduced_by": self.introduced_by,
        }

    @classmethod
    def from_json(cls, entry: Any) -> "TrustedKey":
        if not isinstance(entry, dict) or not isinstance(entry.get("public_key"), str):
            raise KeyFileError("a key of a key ring is an object with a public_key in PEM")
        times = {name: read_time(entry.get(name)) for name in ("not_before", "not_after", "revoked_at")}
        key = cls(entry["public_key"], **times, introduced_by=entry.get("introduced_by"))
        if entry.get("id", key.keyid) != key.keyid:
            raise KeyFileError(f"the key ring gives a key the id {entry['id']}, its own id is {key.keyid}")
        return key


def load_or_create(
    path: Path, *, algorithm: str = "ed25519", command: str = "", now: datetime | None = None
) -> SigningKey:
    """The key at `path` (PKCS #8 PEM, mode 0600), made on first use with its public half beside it (`.pub`).

    With a `command` that signs (PERMAFROST_SIGNER) there is no such file: the public half has to be there already.
    """
    if command:
        key = load(path, command=command)
        if not _ring_path(path).exists():
            write_ring(path, [TrustedKey(key.public_pem, not_before=whole_second(now))])
        return key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        key = generate(algorithm)
        with suppress(FileExistsError):  # another process was first: its key is the key
            write_private(path, key)
            known = read_ring(path) if _ring_path(path).exists() else ()  # of a key that was lost
            write_ring(path, [TrustedKey(key.public_pem, not_before=whole_second(now)), *known])
    key = load(path)
    path.with_suffix(".pub").write_text(key.public_pem)
    return key


def load(path: Path, *, command: str = "") -> SigningKey:
    """The private key in a PEM file, or behind a command. Raises KeyFileError for a key of another kind."""
    if not command:
        return SigningKey(read_private(path.read_bytes(), source=path))
    from app.evidence.format.external import command_key  # a verifier starts without it

    external = command_key(command, path.with_suffix(".pub"))
    if algorithm_of(external.public) not in ALGORITHMS:
        raise KeyFileError(f"{path.with_suffix('.pub')}: {POST_QUANTUM} signs beside one of {', '.join(ALGORITHMS)}")
    return SigningKey(external)


def generate(algorithm: str = "ed25519") -> SigningKey:
    return SigningKey(generate_private(algorithm))


def read_trusted(path: Path) -> tuple[TrustedKey, ...]:
    """Public keys that the reader chose to trust: one PEM file, or a key ring as `GET /v1/signing_keys` returns it."""
    raw = path.read_bytes()
    if raw.lstrip().startswith(b"-----BEGIN"):
        if raw.count(b"-----BEGIN") > 1:
            raise KeyFileError(f"{path} holds several keys; give each a file of its own, or a key ring")
        return (TrustedKey(public_pem(read_public(raw))),)
    try:
        document = read_json(raw)
    except JsonError as error:
        raise KeyFileError(f"{path} is neither a PEM public key nor a key ring: {error}") from None
    return read_ring_json(document, source=path)


def read_ring_json(document: Any, *, source: Path | None = None) -> tuple[TrustedKey, ...]:
    """The keys of a parsed key ring. Raises KeyFileError, also for a key of an object that appears twice."""
    for key in repeated_keys(document):
        raise KeyFileError(f"{source or 'the key ring'}: {key!r} appears twice; remove one of the two")
    entries, beside = (document.get("data"), document.get(BESIDE, [])) if isinstance(document, dict) else (None, None)
    if not isinstance(entries, list) or not isinstance(beside, list) or not entries:
        raise KeyFileError('a key ring is {"data": [{"public_key": ...}, ...]} with at least one key')
    return tuple(TrustedKey.from_json(entry) for entry in (*entries, *beside))


def read_ring(path: Path) -> tuple[TrustedKey, ...]:
    """Public keys of the signing key at `path`: the key ring beside it, or the key alone."""
    if _ring_path(path).exists():
        return _read_own_ring(_ring_path(path))
    return (TrustedKey(load(path).public_pem),)


def _read_own_ring(path: Path) -> tuple[TrustedKey, ...]:
    try:
        return read_ring_json(read_json(path.read_bytes()), source=path)
    except JsonError as error:
        raise KeyFileError(f"{path} is not a key ring: {error}") from None


def write_ring(path: Path, keys: Iterable[TrustedKey]) -> None:
    document = {"object": "list", **ring_json(keys), "has_more": False}
    temporary = _ring_path(path).with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=1))
    temporary.replace(_ring_path(path))


def ring_json(keys: Iterable[TrustedKey]) -> dict[str, list[dict[str, Any]]]:
    """The keys as a ring lists them. Those of ML-DSA have a list of their own, which older readers pass over."""
    lists: dict[str, list[dict[str, Any]]] = {"data": []}
    for key in keys:
        lists.setdefault(BESIDE if key.algorithm == POST_QUANTUM else "data", []).append(key.to_json())
    return lists


def by_id(keys: Iterable[TrustedKey]) -> dict[str, TrustedKey]:
    """One entry per key, with the validity that all its entries agree on."""
    known: dict[str, TrustedKey] = {}
    for key in keys:
        name = key.keyid
        known[name] = known[name].narrowed(key) if name in known else key
    return known


def read_time(text: Any) -> datetime | None:
    """An RFC 3339 time with an offset, in UTC; None stays None."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise KeyFileError(f"{text!r} has no time zone; write 2026-01-31T12:00:00Z")
        return moment.astimezone(UTC)
    except KeyFileError:
        raise
    except (TypeError, ValueError, OverflowError):  # a day before the first year, in another zone
        raise KeyFileError(f"{text!r} is not a time such as 2026-01-31T12:00:00Z") from None


def write_private(path: Path, key: SigningKey) -> None:
    if not isinstance(key.private, algorithms.PrivateKeyInMemory):
        raise KeyFileError("the private half of this key is behind PERMAFROST_SIGNER, and cannot be written to a file")
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # unlike a rename, fails when another process was first
    finally:
        temporary.unlink()


def _ring_path(path: Path) -> Path:
    return path.with_suffix(".ring.json")


def whole_second(moment: datetime | None) -> datetime:
    return (moment or datetime.now(UTC)).replace(microsecond=0)


def iso(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
