"""Proofs of a log for a reader of the command line: where an entry is, who has seen the log, and what is missing."""

import json
from pathlib import Path

import pytest

from app.evidence.format.envelope import LOG_PROOF, accompanied
from app.evidence.format.note import COSIGNATURE, key_of
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import World
from tests.tamper.papers import BEFORE, LOG, ORIGIN, WITNESS, logged


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "log.vkey"
    path.write_text(f"# the log that we trust\n{key_of(LOG, ORIGIN)}\n")
    return path


def test_a_proof_is_reported_and_required(world: World, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, place and size of the log; without its key it is a note, and a statement without a proof is one too."""
    logged(world)
    assert run(world, "--log-key", key, "--require-log") == 0
    assert f"  in the log {ORIGIN}: entry 1 of 3\n" in capsys.readouterr().out
    assert run(world) == 0
    assert "--log-key names the log that you trust" in capsys.readouterr().out

    world.sign()
    assert run(world, "--log-key", key) == 0
    assert "it has no proof that the log has it" in capsys.readouterr().out
    assert run(world, "--log-key", key, "--require-log") == 1
    assert "log_proof_given: no proof that a log has it" in capsys.readouterr().out


def test_a_key_ring_names_the_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """As `GET /v1/signing_keys` lists it, beside the keys that sign statements."""
    logged(world)
    entry = {"public_key": (world.root / "key.pub").read_text()}
    ring = world.root / "ring.json"
    ring.write_text(json.dumps({"data": [entry], "log_keys": [str(key_of(LOG, ORIGIN))]}))
    assert run(world, "--key", ring, "--require-log") == 0
    assert "entry 1 of 3" in capsys.readouterr().out
    ring.write_text(json.dumps({"data": [entry], "log_keys": [7]}))
    assert run(world, "--key", ring) == 2
    assert "log_keys are no list of lines" in capsys.readouterr().out


def test_witnesses_are_reported_and_required(world: World, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the reader names, with their time."""
    witness = world.root / "witness.vkey"
    witness.write_text(str(key_of(WITNESS, "witness.example", COSIGNATURE)))
    logged(world, witnessed=BEFORE)
    assert run(world, "--log-key", key, "--log-witness", witness) == 0
    assert "entry 1 of 3, witnessed by witness.example at 20" in capsys.readouterr().out
    logged(world)
    assert run(world, "--log-key", key, "--log-witness", witness) == 1
    assert "log_witnessed: the witness 'witness.example' has not cosigned" in capsys.readouterr().out
    assert run(world, "--log-key", witness) == 2
    assert "this is the key of a witness" in capsys.readouterr().out


def test_what_cannot_be_checked(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log is required and none is trusted; a file of keys that has none."""
    logged(world)
    assert run(world, "--require-log") == 2
    assert "--require-log needs a log's key" in capsys.readouterr().out
    for text, said in (("", "it is empty"), ("garbage", "is no Ed25519 key"), ("a+00000000+AQ==", "is no Ed25519 key")):
        (tmp_path / "odd.vkey").write_text(text)
        assert run(world, "--log-key", tmp_path / "odd.vkey") == 2
        assert said in capsys.readouterr().out
    assert run(world, "--log-key", tmp_path / "none.vkey") == 2


def test_a_proof_lies_beside_what_was_signed(world: World) -> None:
    """The stored bytes are the beginning of the served ones."""
    published = logged(world)
    del published[LOG_PROOF]
    before = json.dumps(published).encode()
    after = accompanied(before, b"stamp", "proof \u2014\n")
    assert after.startswith(before[:-1])
    assert json.loads(after)[LOG_PROOF] == "proof \u2014\n"
