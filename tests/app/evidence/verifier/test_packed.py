"""`permafrost verify DIR`: a packed folder is checked as it is, and nothing may be in it that was not packed."""

import json
import shutil
from pathlib import Path

import pytest

from app.evidence.format.keys import TrustedKey, generate, ring_json
from app.evidence.verifier import packed
from app.evidence.verifier.context import CannotCheck
from app.evidence.verifier.verify import main, read_attestation
from tests.tamper import recipes
from tests.tamper.kit import KEY, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Its root has a base beside the folder `packed`."""
    made = World(tmp_path / "world")
    recipes.sign(made)
    folder = tmp_path / "packed"
    folder.mkdir()
    shutil.copytree(made.result, folder / packed.RESULT)
    shutil.copyfile(made.attestation, folder / packed.ATTESTATION)
    ring = ring_json([TrustedKey(KEY.public_pem)])
    (folder / packed.KEYS).write_text(json.dumps(ring))
    for name in packed.PAPERS:
        (folder / name).write_text("{}")
    (tmp_path / "key.pub").write_text(KEY.public_pem)
    return made


def folder_of(world: World) -> Path:
    return world.root.parent / "packed"


def test_it_is_taken_as_it_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """With the base at hand level 3; without a key of the reader's it says whose keys it took."""
    folder, key = str(folder_of(world)), str(world.root.parent / "key.pub")
    assert main([folder, "--key", key, "--base", str(world.base), "--require-recipe"]) == 0
    said = capsys.readouterr().out
    assert "VERIFIED, level 3" in said and "keys are those of the folder" not in said
    assert main([folder, "--base-root", world.pinned]) == 0
    said = capsys.readouterr().out
    assert "VERIFIED, level 2" in said and "keys are those of the folder" in said
    assert main([folder, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["level"] == 1 and report["warnings"][0] == packed.OWN_KEYS


def test_the_readers_key_counts_and_not_the_folders(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    other = world.root / "other.pub"
    other.write_text(generate().public_pem)
    assert main([str(folder_of(world)), "--key", str(other)]) == 1
    assert "trusted_signature" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("model.safetensors", "packed_folder"),
        ("config.json", "packed_folder"),
        (".hidden", "packed_folder"),
        ("result/pytorch_model.bin", "nothing_extra"),
        ("result/more/config.json", "no_folders"),
    ],
)
def test_what_was_not_packed_is_rejected(
    world: World, capsys: pytest.CaptureFixture[str], name: str, check: str
) -> None:
    """Beside the parts by this check, inside the result by those of every result."""
    path = folder_of(world) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{}")
    assert main([str(folder_of(world))]) == 1
    assert check in capsys.readouterr().out


def test_parts_are_plain_files(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """No link to elsewhere, and no file in the result's place."""
    folder = folder_of(world)
    (folder / packed.REPORT).unlink()
    (folder / packed.REPORT).symlink_to("/etc/hostname")
    shutil.move(folder / packed.RESULT, world.root / "moved")
    (folder / packed.RESULT).symlink_to(world.root / "moved")
    assert main([str(folder)]) == 1
    said = capsys.readouterr().out
    assert "report.html: not a plain file" in said and "result: not a folder" in said


def test_another_folder_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A result without its attestation, a pack without keys: it could not be checked, and why."""
    assert main([str(world.result)]) == 2
    assert "it has no attestation.json and no result" in capsys.readouterr().out
    (folder_of(world) / packed.KEYS).unlink()
    assert main([str(folder_of(world))]) == 2
    assert "keys.json" in capsys.readouterr().out
    with pytest.raises(CannotCheck, match="no result"):
        shutil.rmtree(folder_of(world) / packed.RESULT)
        packed.unpack(folder_of(world))


def test_an_attestation_alone_still_needs_both(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """As before there were packed folders; a folder stands for the attestation in it elsewhere too."""
    with pytest.raises(SystemExit) as ended:
        main([str(world.attestation)])
    assert ended.value.code == 2
    assert "the following arguments are required: --key, --result" in capsys.readouterr().err
    assert read_attestation(folder_of(world)) == world.attestation.read_bytes()
