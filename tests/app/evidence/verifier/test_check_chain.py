"""Chains of statements that lead back to a first base."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import (
    KEY,
    chained_world,
)


def test_a_chain_leads_back_to_the_first_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the statements in between, what was frozen in all of them is the first base's, and only that is said."""
    world = chained_world(tmp_path)
    world.sign(world.predicate(issued_at=datetime.now(UTC)))
    (world.root / "key.pub").write_text(KEY.public_pem)
    first = world.previous
    assert first is not None
    report = world.verify(2, now=datetime.now(UTC))
    assert report.problems == ()
    assert (report.facts["first_base_root"], report.facts["frozen"]["tensors"]) == (first.pinned, 2)
    options = ["--base-root", first.pinned]
    assert run(world, *options) == 1  # without the chain, the root is another base's
    assert run(world, *options, "--previous", first.attestation) == 0
    assert "2 tensors (272 bytes) are bit-identical to the first base of the chain" in capsys.readouterr().out
    assert run(world, "--previous", tmp_path / "nowhere") == 2
    assert run(world, "--previous", first.root / "base" / "config.json") == 1


def test_a_chain_whose_first_base_is_not_pinned_says_so(tmp_path: Path) -> None:
    """The nearest base at hand proves nothing about the first: its statement's signer may have lied."""
    world = chained_world(tmp_path)
    world.sign()
    note = "which base the chain begins with"
    assert not any(note in one for one in world.verify(2).warnings)
    for level, options in ((1, {}), (3, {}), (2, {"base_root": world.verify(1).facts["base_root"]})):
        report = world.verify(level, **options)
        assert report.verified
        assert any(note in one for one in report.warnings)
