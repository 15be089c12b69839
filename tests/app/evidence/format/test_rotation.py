"""Rotation, introduction and revocation of signing keys."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.evidence.format.envelope import pae
from app.evidence.format.keys import (
    KeyFileError,
    TrustedKey,
    generate,
    load,
    load_or_create,
    read_ring,
)
from app.evidence.format.rotation import OVERLAP, add, introduce, introduced, revoke, rotate, signers

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_rotation(tmp_path: Path) -> None:
    """The old key introduces the new one and signs along for a while; who trusts the old one can follow."""
    path = tmp_path / "signing.pem"
    old = load_or_create(path, now=NOW - timedelta(days=1))
    new = rotate(path, algorithm="ecdsa-p256", now=NOW)
    ring = read_ring(path)
    assert [key.keyid for key in ring] == [new.keyid, old.keyid]
    assert load(path).keyid == new.keyid
    assert path.with_suffix(".pub").read_text() == new.public_pem
    assert [key.keyid for key in signers(path, now=NOW)] == [new.keyid, old.keyid]
    assert [key.keyid for key in signers(path, now=NOW + OVERLAP + timedelta(seconds=1))] == [new.keyid]
    third = rotate(path, now=NOW + timedelta(days=2))
    found = introduced([TrustedKey(old.public_pem)], read_ring(path))
    assert {key.keyid for key in found} == {old.keyid, new.keyid, third.keyid}
    for file in tmp_path.glob("*.pem"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_introductions_lead_only_from_trusted_keys(tmp_path: Path) -> None:
    """A stranger's ring, however well it introduces its keys, adds none."""
    load_or_create(tmp_path / "a.pem", now=NOW)
    rotate(tmp_path / "a.pem", now=NOW)
    mine = TrustedKey(generate().public_pem)
    assert introduced([mine], read_ring(tmp_path / "a.pem")) == (mine,)


def test_an_introduction_is_for_one_key(tmp_path: Path) -> None:
    """It cannot be put beside another key."""
    old = load_or_create(tmp_path / "a.pem", now=NOW)
    rotate(tmp_path / "a.pem", now=NOW)
    introduction = read_ring(tmp_path / "a.pem")[0].introduced_by
    stranger = TrustedKey(generate().public_pem, introduced_by=introduction)
    trusted = TrustedKey(old.public_pem)
    assert introduced([trusted], [stranger]) == (trusted,)


def test_revocation_ends_a_key_and_its_introductions(tmp_path: Path) -> None:
    """A revoked key signs no more, counts for nothing, and what it introduced is not reached through it."""
    path = tmp_path / "signing.pem"
    old = load_or_create(path, now=NOW - timedelta(days=1))
    new = rotate(path, now=NOW)
    revoke(path, old.keyid, now=NOW)
    assert [key.keyid for key in signers(path, now=NOW)] == [new.keyid]
    found = introduced([TrustedKey(old.public_pem)], read_ring(path))
    assert [(key.keyid, key.revoked_at) for key in found] == [(old.keyid, NOW)]
    assert "revoked" in (found[0].refusal(NOW) or "")
    with pytest.raises(KeyFileError, match=new.keyid):
        revoke(path, "0" * 64)


@pytest.mark.parametrize("change", ["payload_type", "statement_type", "repeated_key", "nothing"])
def test_an_introduction_is_read_as_strictly_as_a_statement(change: str, tmp_path: Path) -> None:
    """The old key's signature over something else does not introduce a key."""
    path = tmp_path / "signing.pem"
    old = load_or_create(path)
    rotate(path)
    new, _ = read_ring(path)
    assert new.introduced_by is not None
    payload, kind = base64.b64decode(new.introduced_by["payload"]), new.introduced_by["payloadType"]
    if change == "payload_type":
        kind = "text/plain"
    elif change == "statement_type":
        payload = payload.replace(b"Statement/v1", b"Statement/v0")
    elif change == "repeated_key":
        payload = payload.replace(b"{", b'{"predicateType":"x",', 1)
    signature = base64.b64encode(old.sign(pae(kind, payload))).decode()
    sealed = {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [{"sig": signature}]}
    found = introduced([TrustedKey(old.public_pem)], [replace(new, introduced_by=sealed)])
    assert len(found) == (2 if change == "nothing" else 1)


def test_a_key_of_ml_dsa_signs_beside_the_current_one(tmp_path: Path) -> None:
    """Introduced by it, through its rotation, until it is revoked; its private file is its owner's alone."""
    path = tmp_path / "signing.pem"
    first = load_or_create(path, now=NOW - timedelta(days=1))
    beside = add(path, now=NOW)
    assert [key.keyid for key in signers(path, now=NOW)] == [first.keyid, beside.keyid]
    found = introduced([TrustedKey(first.public_pem)], read_ring(path))
    assert {key.algorithm for key in found} == {"ed25519", "ml-dsa-65"}

    second = rotate(path, now=NOW)
    later = NOW + OVERLAP + timedelta(seconds=1)
    assert [key.keyid for key in signers(path, now=later)] == [second.keyid, beside.keyid]
    revoke(path, beside.keyid, now=later)
    assert [key.keyid for key in signers(path, now=later)] == [second.keyid]
    for file in tmp_path.glob("*.pem"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_rings_list_ml_dsa_apart(tmp_path: Path) -> None:
    """`data` has what verifiers of earlier versions read; a key that they do not know would end them."""
    path = tmp_path / "signing.pem"
    first = load_or_create(path, now=NOW)
    beside = add(path, now=NOW)
    document = json.loads(path.with_suffix(".ring.json").read_text())
    assert [key["id"] for key in document["data"]] == [first.keyid]
    assert [key["id"] for key in document["post_quantum"]] == [beside.keyid]
    assert {key.keyid for key in read_ring(path)} == {first.keyid, beside.keyid}


def test_ml_dsa_does_not_sign_alone(tmp_path: Path) -> None:
    """Earlier verifiers know no such key, so one of theirs always signs."""
    path = tmp_path / "signing.pem"
    load_or_create(path, now=NOW)
    with pytest.raises(KeyFileError, match="permafrost keys signing add"):
        rotate(path, algorithm="ml-dsa-65")


def test_a_key_from_elsewhere_is_introduced(tmp_path: Path) -> None:
    """Its private half is in an HSM: the ring has it, the current key leads to it and stops a month later."""
    path, public = tmp_path / "signing.pem", tmp_path / "hsm.pub"
    old = load_or_create(path, now=NOW - timedelta(days=1))
    hsm = generate("ecdsa-p256")
    public.write_text(hsm.public_pem)
    introduce(path, public, now=NOW)
    found = introduced([TrustedKey(old.public_pem)], read_ring(path))
    assert {key.keyid for key in found} == {old.keyid, hsm.keyid}
    assert [key.keyid for key in signers(path, now=NOW)] == [old.keyid]  # its own file, until it is put in use
    with pytest.raises(KeyFileError, match="has this key already"):
        introduce(path, public, now=NOW)
