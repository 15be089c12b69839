"""What docs/evidence.md tells people to type works."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "v1"


def test_checking_by_hand_works_as_written(tmp_path: Path) -> None:
    """The page's shell lines verify a signature, the files and a tensor, without any code of ours."""
    for tool in ("openssl", "sha256sum", "od"):
        if not shutil.which(tool):
            pytest.skip(f"this machine has no {tool}")
    shutil.copytree(GOLDEN / "plain", tmp_path / "here")
    shutil.copyfile(GOLDEN / "ed25519.pub", tmp_path / "here" / "key.pub")
    [script] = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "evidence.md").read_text(), flags=re.DOTALL)
    command = ["sh", "-e", "-c", script]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True, check=True)
    assert "Signature Verified Successfully" in done.stdout
    statement = (tmp_path / "here" / "statement.json").read_text()
    digests = re.findall(r"^([0-9a-f]{64}) ", done.stdout, flags=re.MULTILINE)
    assert len(digests) == 4  # two files, one tensor twice
    assert digests[2] == digests[3]
    assert all(digest in statement for digest in digests)
