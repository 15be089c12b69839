"""Signatures, keys, and the job that a statement has to be about."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.evidence.format import keys, rotation
from app.evidence.format.keys import TrustedKey, generate, write_ring
from app.evidence.verifier import verify
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    KEY,
    World,
)


def test_the_reader_says_what_it_has_to_be_about(world: World, tmp_path: Path) -> None:
    """Job, nonce and policy are compared with the signed ones; a level can be demanded."""
    policy = tmp_path / "policy.json"
    assert run(world, "--job", "ftjob-1", "--nonce", "n-1", "--policy", policy) == 0
    assert run(world, "--job", "ftjob-2") == 1
    assert run(world, "--nonce", "n-2") == 1
    assert run(world, "--policy", f"@{policy}") == run(world, "--policy", policy.read_text()) == 0
    policy.write_text('{"freeze": ["bert.**"]}')
    assert run(world, "--policy", policy) == run(world, "--policy", policy.read_text()) == 1
    assert run(world, "--level", "2") == 1
    assert run(world, "--level", "2", "--base-root", world.pinned) == 0
    assert run(world, "--level", "3", "--base-root", world.pinned) == 1


def test_keys_of_a_ring_count_as_far_as_they_are_introduced(world: World, tmp_path: Path) -> None:
    """Who has the first key needs no other: the ring leads from it to the key that signed."""
    path = tmp_path / "keys" / "signing.pem"
    old = keys.load_or_create(path, now=datetime.now(UTC) - timedelta(days=2))
    new = rotation.rotate(path, now=datetime.now(UTC) - timedelta(days=1))
    (tmp_path / "key.pub").write_text(old.public_pem)
    world.sign(world.predicate(issued_at=datetime.now(UTC)), keys=[new])
    ring = path.with_suffix(".ring.json")
    assert run(world) == 1
    assert run(world, "--ring", ring) == 0
    write_ring(tmp_path / "stranger.pem", [TrustedKey(new.public_pem)])
    assert run(world, "--ring", tmp_path / "stranger.ring.json") == 1
    rotation.rotate(path)
    rotation.revoke(path, new.keyid)
    assert run(world, "--ring", ring) == 1


def test_two_signatures_and_one_trusted_key(world: World) -> None:
    """During an overlap of keys either one is enough."""
    world.sign(world.predicate(issued_at=datetime.now(UTC)), keys=[generate("ecdsa-p256"), KEY])
    assert run(world) == 0


def test_a_signature_of_ml_dsa_beside_the_first(world: World, tmp_path: Path) -> None:
    """Who trusts either key verifies; who requires both has both, and rejects a statement that one did not sign."""
    beside = generate("ml-dsa-65")
    (tmp_path / "mldsa.pub").write_text(beside.public_pem)
    world.sign(world.predicate(issued_at=datetime.now(UTC)), keys=[KEY, beside])
    assert run(world) == 0
    assert run(world, "--require-key", tmp_path / "mldsa.pub") == 0
    assert (
        verify.main([str(world.attestation), "--key", str(tmp_path / "mldsa.pub"), "--result", str(world.result)]) == 0
    )
    world.sign(world.predicate(issued_at=datetime.now(UTC)), keys=[KEY])
    assert run(world) == 0
    assert run(world, "--require-key", tmp_path / "mldsa.pub") == 1
    assert run(world, "--require-key", tmp_path / "none.pub") == 2
