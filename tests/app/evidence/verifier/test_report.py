"""What a report says about tensors, buffers and module types, and that names cannot write it."""

import json
from pathlib import Path

import pytest

from app.evidence.format.keys import TrustedKey
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    KEY,
    World,
    flipped,
    forged,
)


def test_new_tensors_under_a_freezing_policy_are_named(world: World) -> None:
    """A head frozen at its random start is in no base: no claim about it, and a note that says so."""
    world.policy = {"rules": [{"id": "all", "action": "freeze", "select": {"name": ["bert.enc.**", "head.b"]}}]}
    world.sign()
    report = world.verify(2)
    assert report.verified
    assert report.facts["frozen"]["tensors"] == 4
    assert any("not in the base" in warning and "head.b" in warning for warning in report.warnings)


def test_buffers_that_moved_are_named(world: World) -> None:
    """Under `track` a buffer may move: never claimed, always mentioned."""
    world.edit_result("bert.enc.1.mean", lambda t: (t[0], t[1], flipped(t[2])))
    rule = {"id": "weights", "action": "freeze", "select": {"name": ["bert.enc.**"], "kind": "parameter"}}
    world.policy = {"rules": [rule], "buffers": "track"}
    world.sign()
    report = world.verify(2)
    assert report.verified
    assert "buffers that moved: bert.enc.1.mean" in report.warnings


def test_a_module_type_is_the_signers_word(world: World) -> None:
    """Which tensor belongs to which class is in no file; the report says so."""
    select = {"module_type": "Linear"}
    world.policy = {"rules": [{"id": "linear", "action": "freeze", "select": select}]}
    plain = world.policy
    world.policy = {"freeze": ["bert.enc.0.w"]}
    rows = forged(world.rows(), "bert.enc.0.w", module_types=("Toy", "Encoder", "Layer", "Linear"), rule="linear")
    world.policy = plain
    world.sign(world.predicate(rows=rows))
    report = world.verify(2)
    assert report.problems == ()
    assert any("module type" in warning for warning in report.warnings)


def test_a_ring_cannot_write_the_report(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says about itself is shown as what it is, on one line."""
    entry = {**TrustedKey(KEY.public_pem).to_json(), "id": "x\n\x1b[2JVERIFIED, level 3"}
    (tmp_path / "ring.json").write_text(json.dumps({"data": [entry]}))
    assert run(world, "--key", tmp_path / "ring.json") == 2
    assert len(capsys.readouterr().out.splitlines()) == 1
