"""Level 2 by registries: the root of the base comes from lists that others have signed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.evidence.format.base_registry import build
from app.evidence.format.keys import SigningKey, generate
from tests.app.evidence.verifier.signed import run
from tests.tamper.kit import World

NAME = "owner/name@0123abc"
AUTHOR = generate()


@pytest.fixture
def signed(world: World) -> World:
    """A world whose statement says where its base is from, and the public key of a registry's author."""
    origin = {"model": "name", "kind": "base", "repository": "owner/name", "revision": "0123abc"}
    world.sign(world.predicate(origin=origin, issued_at=datetime.now(UTC) - timedelta(minutes=1)))
    (world.root / "author.pub").write_text(AUTHOR.public_pem)
    return world


def registry(world: World, root: str, *, name: str = NAME, key: SigningKey = AUTHOR, file: str = "bases.json") -> Path:
    path = world.root / file
    path.write_text(json.dumps(build({name: root}, issued_at=datetime.now(UTC), key=key)))
    return path


def options(world: World, *registries: Path) -> list[str | Path]:
    given: list[str | Path] = ["--registry-key", world.root / "author.pub"]
    for path in registries:
        given += ["--base-registry", path]
    return given


def test_a_registry_pins_the_base(signed: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without base files, without a root: by the name that the statement gives its base, or by the reader's own."""
    found = registry(signed, signed.pinned)
    assert run(signed, *options(signed, found), "--level", "2") == 0
    said = capsys.readouterr().out
    assert "VERIFIED, level 2" in said and f"{NAME} has the root {signed.pinned} by 1 registry" in said
    other = registry(signed, signed.pinned, name="mirror/name@1")
    assert run(signed, *options(signed, other), "--base-name", "mirror/name@1", "--level", "2") == 0


def test_several_have_to_agree(signed: World, capsys: pytest.CaptureFixture[str]) -> None:
    """One that has another root, or does not have the base, rejects."""
    first = registry(signed, signed.pinned)
    second = registry(signed, signed.pinned, file="second.json")
    assert run(signed, *options(signed, first, second)) == 0
    assert "2 registries, which agree" in capsys.readouterr().out
    other = registry(signed, "ab" * 32, file="other.json")
    assert run(signed, *options(signed, first, other)) == 1
    assert "bases.json and other.json have different roots" in capsys.readouterr().out
    without = registry(signed, signed.pinned, name="owner/name@0123abd", file="without.json")
    assert run(signed, *options(signed, first, without)) == 1
    assert "did you mean owner/name@0123abd?" in capsys.readouterr().out


def test_another_base_is_rejected(signed: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the registry's root is not the statement's, and where it is not the reader's."""
    assert run(signed, *options(signed, registry(signed, "ab" * 32))) == 1
    assert "pinned_base: about another base" in capsys.readouterr().out
    assert run(signed, *options(signed, registry(signed, signed.pinned)), "--base-root", "ab" * 32) == 1
    assert "than --base-root" in capsys.readouterr().out


def test_a_registry_that_was_tampered_with_is_rejected(signed: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Signed by a key that the reader does not trust for registries: that of the evidence is not enough."""
    path = registry(signed, signed.pinned, key=generate())
    assert run(signed, *options(signed, path)) == 1
    assert "base_registry: bases.json: no signature by a trusted key" in capsys.readouterr().out
    good = registry(signed, signed.pinned)
    good.write_text(good.read_text().replace('"sig": "', '"sig": "AAAA', 1))
    assert run(signed, *options(signed, good), "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["check"] == "base_registry"


def test_what_cannot_be_looked_up_is_said(world: World, signed: World, capsys: pytest.CaptureFixture[str]) -> None:
    """No key, no file, no origin."""
    found = registry(signed, signed.pinned)
    assert run(signed, "--base-registry", found) == 2
    assert "--registry-key" in capsys.readouterr().out
    assert run(signed, *options(signed, signed.root / "none.json")) == 2
    world.sign(world.predicate(issued_at=datetime.now(UTC) - timedelta(minutes=1)))
    assert run(world, *options(world, found)) == 1
    assert "name it with --base-name" in capsys.readouterr().out
