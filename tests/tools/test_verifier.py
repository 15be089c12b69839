"""The verifier in one file runs on a Python without this project, and its exit code is the verifier's."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import verifier


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return verifier.build(tmp_path_factory.mktemp("verifier") / "permafrost-verify.pyz")


def run(pyz: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Isolated from this repository: another working folder, no PYTHONPATH."""
    command = [sys.executable, "-I", str(pyz), *arguments]
    return subprocess.run(command, cwd=pyz.parent, capture_output=True, text=True, check=False)


def test_it_tells_how_to_use_it(pyz: Path) -> None:
    """`--help` works and names the arguments."""
    done = run(pyz, "--help")
    assert done.returncode == 0
    assert "--key" in done.stdout


def test_what_cannot_be_checked_exits_2(pyz: Path, tmp_path: Path) -> None:
    """A missing attestation is neither verified nor rejected, and the exit code says so."""
    missing = str(tmp_path / "missing.json")
    assert run(pyz, missing, "--key", missing, "--result", str(tmp_path)).returncode == 2


def test_a_forged_attestation_exits_1(pyz: Path, tmp_path: Path) -> None:
    """A rejection is not swallowed by the archive's entry point."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    forged = '{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": "AAAA"}]}'
    (tmp_path / "attestation.json").write_text(forged)
    (tmp_path / "result").mkdir()
    done = run(
        pyz,
        str(tmp_path / "attestation.json"),
        "--key",
        str(tmp_path / "key.pub"),
        "--result",
        str(tmp_path / "result"),
    )
    assert done.returncode == 1, done.stdout + done.stderr


def test_it_holds_only_what_it_needs(pyz: Path) -> None:
    """Neither the API nor the worker travels with the verifier."""
    import zipfile

    names = zipfile.ZipFile(pyz).namelist()
    assert "app/evidence/verifier/verify.py" in names
    assert not [name for name in names if "routes" in name or name.startswith("worker")]
