"""`permafrost base`: roots, and registries that are made, shown and verified with."""

import json
from pathlib import Path

import pytest

from tests.app.cli.commands import Command
from tests.app.evidence.verifier.conftest import world as signed_world
from tests.tamper.kit import KEY, World

world = signed_world


@pytest.fixture
def key(permafrost: Command, tmp_path: Path) -> Path:
    """A private key in a file, its public half beside it."""
    from app.evidence.format.keys import load_or_create

    path = tmp_path / "author.key"
    load_or_create(path)
    return path


def test_a_registry_is_made_shown_and_verified_with(
    permafrost: Command, world: World, key: Path, tmp_path: Path
) -> None:
    """From a folder and from a root; the attestation then reaches level 2 without base files."""
    assert permafrost("base", "root", str(world.base)).stdout.strip() == world.pinned
    assert json.loads(permafrost("base", "root", str(world.base), "--json").stdout)["root"] == world.pinned
    file, public = tmp_path / "bases.json", key.with_suffix(".pub")
    entries = [f"owner/name@1={world.base}", f"owner/other@2={'AB' * 32}"]
    made = permafrost("base", "registry", "make", *entries, "--key", str(key), "--output", str(file))
    assert made.returncode == 0, made.stderr
    shown = permafrost("base", "registry", "show", str(file), "--key", str(public))
    assert shown.stdout.splitlines() == [f"{world.pinned}  owner/name@1", f"{'ab' * 32}  owner/other@2"]
    as_json = json.loads(permafrost("base", "registry", "show", str(file), "--key", str(public), "--json").stdout)
    assert as_json["bases"] == {"owner/name@1": world.pinned, "owner/other@2": "ab" * 32}
    given = [world.attestation, "--key", world.root / "key.pub", "--result", world.result]
    given += ["--base-registry", file, "--registry-key", public, "--base-name", "owner/name@1", "--level", "2"]
    done = permafrost("verify", *map(str, given))
    assert done.returncode == 0 and "VERIFIED, level 2" in done.stdout


def test_mistakes_are_sentences(permafrost: Command, world: World, key: Path, tmp_path: Path) -> None:
    """No traceback for an entry of another form, a folder without weights, or a key that did not sign."""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no .safetensors file" in permafrost("base", "root", str(empty)).stderr
    for entry, message in (("name=ab", "not like owner/name@commit"), ("a/b@1=ab", "64 hexadecimal digits")):
        done = permafrost("base", "registry", "make", entry, "--key", str(key))
        assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    file = tmp_path / "bases.json"
    file.write_text(permafrost("base", "registry", "make", f"a/b@1={'ab' * 32}", "--key", str(key)).stdout)
    (tmp_path / "other.pub").write_text(KEY.public_pem)
    done = permafrost("base", "registry", "show", str(file), "--key", str(tmp_path / "other.pub"))
    assert done.returncode == 1 and "no signature by a trusted key" in done.stderr
