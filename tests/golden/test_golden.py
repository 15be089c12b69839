"""Evidence of every format that was ever released, made by the code of its day, is verified for ever."""

import json
import shutil
from pathlib import Path

import pytest

from app.evidence.verifier.verify import main

WORLDS = sorted(path.parent for path in Path(__file__).parent.glob("*/*/expected.json"))


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


def test_there_is_old_evidence() -> None:
    """The folders of the formats are there, with all of their worlds."""
    first, ties = ({root.name for root in WORLDS if root.parent.name == name} for name in ("v1", "v1-ties"))
    assert first == {"plain", "sharded", "partly-frozen", "scheduled", "fused", "changed-only", "adapter", "chain"}
    assert ties == first | {"tie"}  # rows that say `aliasOf`
