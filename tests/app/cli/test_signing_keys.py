"""`permafrost keys signing`: list, rotate, revoke, and what it says when there is no key."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.signing_keys import app
from app.evidence.format.keys import generate, load_or_create, read_trusted, write_private


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "signing.pem"
    load_or_create(path)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_life_of_a_signing_key(key: Path) -> None:
    """Listed, rotated to another algorithm, and the old one revoked."""
    old = run("list", "--path", str(key)).stdout.split()[0]
    rotated = run("rotate", "--algorithm", "ecdsa-p256", "--path", str(key))
    assert rotated.exit_code == 0 and "also signs for" in rotated.stdout

    listed = run("list", "--path", str(key)).stdout.splitlines()
    assert len(listed) == 2 and any("ecdsa-p256" in line for line in listed)
    revoked = run("revoke", old, "--path", str(key), "--json")
    assert revoked.exit_code == 0 and json.loads(revoked.stdout)["keyid"] == old
    ring = json.loads(run("list", "--path", str(key), "--json").stdout)
    assert [each["keyid"] == old for each in ring if each["revoked_at"]] == [True]
    (line,) = [line for line in run("list", "--path", str(key)).stdout.splitlines() if line.startswith(old)]
    assert "revoked" in line


def test_no_key_yet_is_a_sentence(tmp_path: Path) -> None:
    """With the path, code 1, and who creates it."""
    result = run("list", "--path", str(tmp_path / "none.pem"))
    assert result.exit_code == 1
    assert "none" in result.stderr and "a worker creates it" in result.stderr


def test_an_unknown_key_id_is_a_sentence(key: Path) -> None:
    """Not a traceback."""
    result = run("revoke", "0" * 64, "--path", str(key))
    assert result.exit_code == 1 and result.stderr.strip() and "Traceback" not in result.stderr


def test_a_key_of_ml_dsa_is_added(key: Path) -> None:
    """It is listed with its algorithm, and a second one is a second one."""
    added = run("add", "--path", str(key))
    assert added.exit_code == 0 and "(ml-dsa-65) signs beside" in added.stdout
    public = Path(added.stdout.strip().rpartition(": ")[2])
    (named,) = read_trusted(public)
    assert (named.keyid, named.algorithm) == (added.stdout.split()[0], "ml-dsa-65")
    listed = run("list", "--path", str(key)).stdout.splitlines()
    assert [line.split()[1] for line in listed] == ["ed25519", "ml-dsa-65"]


def test_a_key_of_an_hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind PERMAFROST_SIGNER: others are introduced and added by it, and it is rotated where it is."""
    private, path = generate("ecdsa-p256"), tmp_path / "signing.key"
    write_private(tmp_path / "hsm.pem", private)
    path.with_suffix(".pub").write_text(private.public_pem)
    command = f"openssl dgst -sha256 -sign {tmp_path / 'hsm.pem'}"
    monkeypatch.setenv("PERMAFROST_SIGNING_KEY", str(path))
    monkeypatch.setenv("PERMAFROST_SIGNER", command)
    load_or_create(path, command=command)

    rotated = run("rotate")
    assert rotated.exit_code == 1 and "keys signing introduce" in rotated.stderr
    following = tmp_path / "following.pub"
    following.write_text(generate().public_pem)
    assert run("introduce", str(following)).exit_code == 0
    assert run("add").exit_code == 0
    assert [line.split()[1] for line in run("list").stdout.splitlines()] == ["ed25519", "ecdsa-p256", "ml-dsa-65"]
    monkeypatch.setenv("PERMAFROST_SIGNER", "false")
    failed = run("add")
    assert failed.exit_code == 1 and "PERMAFROST_SIGNER (false) ended with code 1" in failed.stderr
    assert len(run("list").stdout.splitlines()) == 3  # nothing half-done
