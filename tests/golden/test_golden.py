"""Evidence of every format that was ever released, made by the code of its day, is verified for ever."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.evidence.verifier.verify import main

HERE = Path(__file__).parent
WORLDS = sorted(path.parent for path in HERE.glob("*/*/expected.json"))
WITH_RECIPES = [root for root in WORLDS if root.parent.name == "v1-recipes"]
#: `make verifier` of the last version without recipes.
BEFORE_RECIPES = HERE / "verifier-before-recipes.pyz"


def verify(root: Path, key: str, *options: str) -> int:
    arguments = [str(root / "attestation.json"), "--key", str(root.parent / key), "--result", str(root / "result")]
    for earlier in json.loads((root / "expected.json").read_text())["previous"]:
        arguments += ["--previous", str(root / earlier)]
    return main([*arguments, *options])


@pytest.mark.parametrize("key", ["keys.json", "ed25519.pub", "ecdsa-p256.pub"])
@pytest.mark.parametrize("root", WORLDS, ids=lambda root: f"{root.parent.name}-{root.name}")
def test_old_evidence_is_verified(root: Path, key: str) -> None:
    """With the ring or with either key, for its job and nonce, at every level that it can reach."""
    expected = json.loads((root / "expected.json").read_text())
    about = ["--job", expected["job"], "--nonce", expected["nonce"]]
    pinned, base = ["--base-root", expected["base_root"]], ["--base", str(root / "base")]
    assert verify(root, key, *about, *pinned, *base, "--level", "3") == 0
    if not expected["needs_base"]:
        assert verify(root, key, *about, "--level", "1") == 0
        assert verify(root, key, *about, *pinned, "--level", "2") == 0


@pytest.mark.parametrize("root", WORLDS, ids=lambda root: f"{root.parent.name}-{root.name}")
def test_old_evidence_is_still_evidence(root: Path, tmp_path: Path) -> None:
    """A flipped bit in any of its files, base and statement included, is still rejected."""
    base = ["--base", str(tmp_path / "old" / root.name / "base")]
    checked = [*root.glob("base/*"), *root.glob("result/*"), *root.rglob("attestation.json")]
    for file in (path.relative_to(root.parent) for path in checked):
        shutil.copytree(root.parent, tmp_path / "old")
        path = tmp_path / "old" / file
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        assert verify(tmp_path / "old" / root.name, "keys.json", *base) == 1, file
        shutil.rmtree(tmp_path / "old")


@pytest.mark.parametrize("root", WITH_RECIPES, ids=lambda root: root.name)
def test_a_recipe_is_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An attestation of today has one, which a reader may insist on; one of before has none, and is evidence."""
    base = ["--base", str(root / "base"), "--require-recipe", "--json"]
    assert verify(root, "keys.json", *base) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["requested"]["seed"] == 7
    assert verify(root.parents[1] / "v1-ties" / root.name, "keys.json", "--require-recipe") == 1


@pytest.mark.parametrize("root", WITH_RECIPES, ids=lambda root: root.name)
def test_a_verifier_from_before_recipes_accepts_evidence_with_one(root: Path) -> None:
    """The verifier in one file as it was when no attestation had a recipe."""
    command = [sys.executable, "-I", str(BEFORE_RECIPES), str(root / "attestation.json")]
    command += ["--key", str(root.parent / "keys.json"), "--result", str(root / "result"), "--base", str(root / "base")]
    for earlier in json.loads((root / "expected.json").read_text())["previous"]:
        command += ["--previous", str(root / earlier)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("VERIFIED, level 3")


def test_there_is_old_evidence() -> None:
    """The folders of the formats are there, with all of their worlds."""
    first, ties, recipes, decoded = (
        {root.name for root in WORLDS if root.parent.name == name}
        for name in ("v1", "v1-ties", "v1-recipes", "v1-decoded")
    )
    assert first == {"plain", "sharded", "partly-frozen", "scheduled", "fused", "changed-only", "adapter", "chain"}
    assert ties == first | {"tie"}  # rows that say `aliasOf`
    assert recipes == ties
    assert decoded == {"decoded"}  # a row that says `decoded`
