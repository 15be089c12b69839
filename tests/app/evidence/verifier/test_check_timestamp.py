"""Timestamps for a reader of the command line: a time that is not the signer's, or whose it is."""

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.evidence.format.envelope import RECIPE_TIMESTAMP, TIMESTAMP, accompanied
from app.evidence.format.timestamp import in_order
from tests import authority
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import World
from tests.tamper.papers import recipe_stamped, stamped, tsa


def test_a_timestamp_is_reported_and_required(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """By its time and its authority; without its roots it is a note, and without a timestamp the signer's clock."""
    stamped(world, predicate=world.predicate(issued_at=datetime.now(UTC)))
    assert run(world, "--tsa-roots", tsa().roots) == 0
    assert "  dated by the signer's clock, and signed by 20" in capsys.readouterr().out
    assert run(world) == 0
    said = capsys.readouterr().out
    assert "  dated by the signer's clock\n" in said and "--tsa-roots names the authorities" in said

    world.sign(world.predicate(issued_at=datetime.now(UTC)))
    assert run(world) == 0
    assert "  dated by the signer's clock\n" in capsys.readouterr().out
    assert run(world, "--tsa-roots", tsa().roots) == 1
    assert "timestamp_given: no timestamp" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (base64.b64encode(b"garbage").decode(), "timestamp_readable: not an RFC 3161 timestamp"),
        ("%%%", "timestamp_readable: the envelope's timestamp is not base64"),
        (7, "timestamp_readable: the envelope's timestamp is not base64"),
        ("Wg", "timestamp_readable: the envelope's timestamp is not base64"),
    ],
)
def test_garbage_is_a_rejection(world: World, token: object, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With its reason, and no traceback."""
    world.publish(world.sign() | {TIMESTAMP: token})
    assert run(world, "--tsa-roots", tsa().roots) == 1
    assert said in capsys.readouterr().out


def test_roots_that_are_none(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, or holds no certificate: it could not be checked."""
    world.sign()
    assert run(world, "--tsa-roots", tmp_path / "none.pem") == 2
    (tmp_path / "garbage.pem").write_text("garbage")
    assert run(world, "--tsa-roots", tmp_path / "garbage.pem") == 2
    assert "holds no certificates in PEM" in capsys.readouterr().out


def test_without_the_library_it_could_not_be_checked(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says which package is missing."""
    stamped(world)
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    assert run(world, "--tsa-roots", tsa().roots) == 2
    assert "pip install rfc3161-client" in capsys.readouterr().out


def test_an_envelope_gets_a_timestamp_and_stays_as_it_was_signed(world: World) -> None:
    """The stored bytes are the beginning of the served ones."""
    world.sign(world.predicate(issued_at=datetime.now(UTC)))
    before = world.attestation.read_bytes()
    signature = base64.b64decode(json.loads(before)["signatures"][0]["sig"])
    after = accompanied(before, in_order(tsa().stamp(signature)))
    assert after.startswith(before[:-1]) and accompanied(before, None) == before
    world.attestation.write_bytes(after)
    assert run(world, "--tsa-roots", tsa().roots) == 0


def test_the_recipe_has_a_time_of_its_own(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Over its own signature; an attestation with a timestamp for the statement alone verifies, with a note."""
    recipe_stamped(world)
    assert run(world, "--tsa-roots", tsa().roots) == 0
    said = capsys.readouterr().out
    assert "  recipe signed by 20" in said and "no timestamp of its own" not in said
    sealed = json.loads(world.attestation.read_bytes())
    del sealed[RECIPE_TIMESTAMP]
    world.publish(sealed)
    assert run(world, "--tsa-roots", tsa().roots) == 0
    assert "the recipe has no timestamp of its own" in capsys.readouterr().out
    world.publish(sealed | {RECIPE_TIMESTAMP: 7})
    assert run(world, "--tsa-roots", tsa().roots) == 1
    assert "recipe_timestamp_readable: the envelope's recipeTimestamp is not base64" in capsys.readouterr().out


def test_another_digest_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Of SHA-512, though the signature is the right one."""
    sealed = world.sign(world.predicate(issued_at=datetime.now(UTC)))
    signature = base64.b64decode(sealed["signatures"][0]["sig"])
    token = base64.b64encode(in_order(tsa().stamp(signature, digest="sha512"))).decode()
    world.publish(sealed | {TIMESTAMP: token})
    assert run(world, "--tsa-roots", tsa().roots) == 1
    assert "timestamp_readable: it is of another digest than SHA-256" in capsys.readouterr().out


def test_an_expired_chain_is_named(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the certificate and its days, which were over when it stamped."""
    late = authority.make(tmp_path / "tsa")
    authority.expired(late)
    stamped(world, by=late, predicate=world.predicate(issued_at=datetime.now(UTC)))
    assert run(world, "--tsa-roots", late.roots) == 1
    said = capsys.readouterr().out
    assert "timestamp_authority: the certificate of CN=TSA is valid from" in said
    assert "not at the timestamp's time" in said
