"""Rotation and revocation of signing keys.

A statement under the old key introduces the new one, and the old key also signs for a while. A reader who trusts the
first key can follow the introductions to all later ones.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from app.evidence.format.envelope import PAYLOAD_TYPE, EnvelopeError, read_envelope, seal, signers_of
from app.evidence.format.keys import (
    POST_QUANTUM,
    KeyFileError,
    SigningKey,
    TrustedKey,
    by_id,
    generate,
    iso,
    load,
    read_ring,
    read_time,
    read_trusted,
    whole_second,
    write_private,
    write_ring,
)
from app.evidence.format.statement import STATEMENT_TYPE
from app.evidence.format.strict import JsonError, read_json, repeated_keys

OVERLAP = timedelta(days=30)  # how long an old key goes on signing beside its successor
INTRODUCTION = "urn:permafrost:key-introduction:v1"


def rotate(path: Path, *, algorithm: str = "ed25519", now: datetime | None = None) -> SigningKey:
    """Put a new key at `path`, introduced by a statement under the old one, which goes on signing for OVERLAP."""
    if algorithm == POST_QUANTUM:
        raise KeyFileError(f"{POST_QUANTUM} signs beside another key: add it with `permafrost keys signing add`")
    old, ring, now = load(path), read_ring(path), whole_second(now)
    new = generate(algorithm)
    introduction = seal(_introduction(new.keyid, new.algorithm, new.public_pem, now), [old])
    # In this order a crash leaves a key at `path` whose public half is in the ring.
    following = path.with_name(f"{path.name}.following")
    following.unlink(missing_ok=True)
    write_private(following, new)
    with suppress(FileExistsError):
        os.link(path, _retired(path, old.keyid))
    closed = [replace(key, not_after=now + OVERLAP) if key.keyid == old.keyid else key for key in ring]
    write_ring(path, [TrustedKey(new.public_pem, not_before=now, introduced_by=introduction), *closed])
    following.replace(path)
    path.with_suffix(".pub").write_text(new.public_pem)
    return new


def add(path: Path, *, algorithm: str = POST_QUANTUM, command: str = "", now: datetime | None = None) -> SigningKey:
    """Make a key that signs beside the one at `path`, which introduces it, until it is revoked.

    Its public half is at `public_half`, for readers who ask for it by name.
    """
    current, ring, now = load(path, command=command), read_ring(path), whole_second(now)
    new = generate(algorithm)
    write_private(_retired(path, new.keyid), new)
    public_half(path, new.keyid).write_text(new.public_pem)
    introduction = seal(_introduction(new.keyid, new.algorithm, new.public_pem, now), [current])
    write_ring(path, [*ring, TrustedKey(new.public_pem, not_before=now, introduced_by=introduction)])
    return new


def public_half(path: Path, keyid: str) -> Path:
    """The file with the public half of a key that signs beside the one at `path`."""
    return _retired(path, keyid).with_suffix(".pub")


def introduce(path: Path, public: Path, *, command: str = "", now: datetime | None = None) -> TrustedKey:
    """Introduce a public key, whose private half is elsewhere, by the current key. It has to be put in use by hand."""
    current, ring, now = load(path, command=command), read_ring(path), whole_second(now)
    (new,) = read_trusted(public)
    if new.keyid in {key.keyid for key in ring}:
        raise KeyFileError(f"{public}: the ring has this key already ({new.keyid})")
    introduction = seal(_introduction(new.keyid, new.algorithm, new.pem, now), [current])
    closed = [replace(key, not_after=now + OVERLAP) if key.keyid == current.keyid else key for key in ring]
    introduced_key = TrustedKey(new.pem, not_before=now, introduced_by=introduction)
    write_ring(path, [introduced_key, *closed])
    return introduced_key


def revoke(path: Path, revoked: str, *, command: str = "", now: datetime | None = None) -> None:
    """Mark a key of the key ring as revoked: it signs no more, and no statement under it is valid.

    Raises KeyFileError for the current signing key: rotate first, or jobs that end meanwhile have no valid evidence.
    """
    ring = read_ring(path)
    if revoked == load(path, command=command).keyid:
        raise KeyFileError(f"{revoked} is the key that signs: rotate first, then revoke it")
    if revoked not in {key.keyid for key in ring}:
        raise KeyFileError(f"no key {revoked} in the ring; it has {', '.join(key.keyid for key in ring)}")
    write_ring(path, [replace(key, revoked_at=whole_second(now)) if key.keyid == revoked else key for key in ring])


def signers(path: Path, *, command: str = "", now: datetime | None = None) -> list[SigningKey]:
    """The keys to sign with: the current one, and those of the ring that are valid, not revoked, and files here."""
    current, now = load(path, command=command), whole_second(now)
    valid = {key.keyid for key in read_ring(path) if key.refusal(now) is None}
    retired = [_retired(path, one) for one in sorted(valid - {current.keyid})]
    return [current, *(load(file) for file in retired if file.exists())]


def introduced(trusted: Iterable[TrustedKey], ring: Iterable[TrustedKey]) -> tuple[TrustedKey, ...]:
    """The trusted keys, and those of the key ring that a chain of introductions connects with them.

    The key ring can narrow the validity of a trusted key (expiry, revocation) and never widen it.
    """
    accepted, waiting = by_id(trusted), by_id(ring)
    for name in accepted.keys() & waiting.keys():
        accepted[name] = accepted[name].narrowed(waiting.pop(name))
    while True:
        for name, key in waiting.items():
            with suppress(EnvelopeError, JsonError, KeyFileError):
                envelope = read_envelope(json.dumps(key.introduced_by).encode())
                if envelope.payload_type != PAYLOAD_TYPE:
                    continue
                issued = _introduces(read_json(envelope.payload), key)
                if any(one.refusal(issued) is None for one in signers_of(envelope, accepted.values())):
                    accepted[name] = waiting.pop(name)
                    break
        else:
            return tuple(accepted.values())


def _introduction(keyid: str, algorithm: str, public_key: str, now: datetime) -> bytes:
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "signing-key", "digest": {"sha256": keyid}}],
        "predicateType": INTRODUCTION,
        "predicate": {"issuedAt": iso(now), "algorithm": algorithm, "publicKey": public_key},
    }
    return json.dumps(statement, separators=(",", ":")).encode()


def _introduces(statement: Any, key: TrustedKey) -> datetime:
    """The date of a statement that introduces exactly this key. Raises KeyFileError for any other statement."""
    if not isinstance(statement, dict) or any(repeated_keys(statement)):
        raise KeyFileError("not an introduction")
    if (statement.get("_type"), statement.get("predicateType")) != (STATEMENT_TYPE, INTRODUCTION):
        raise KeyFileError("not an introduction")
    subject = [{"name": "signing-key", "digest": {"sha256": key.keyid}}]
    predicate = statement.get("predicate")
    if statement.get("subject") != subject or not isinstance(predicate, dict):
        raise KeyFileError("an introduction of another key")
    issued = read_time(predicate.get("issuedAt"))
    if issued is None:
        raise KeyFileError("an introduction without a time")
    return issued


def _retired(path: Path, keyid: str) -> Path:
    return path.with_name(f"{path.stem}-{keyid[:16]}{path.suffix}")
