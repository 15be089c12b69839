"""Keys behind a command: openssl signs here, which nobody here wrote; then commands that fail in every way."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import SignerUnavailable
from app.evidence.format import external
from app.evidence.format.external import command_key
from app.evidence.format.keys import KeyFileError, TrustedKey, generate, load, load_or_create, read_ring, write_private


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A P-256 key whose private half only the command has; its public half is where the service looks for it."""
    private = generate("ecdsa-p256")
    write_private(tmp_path / "hsm.pem", private)
    (tmp_path / "signing.pub").write_text(private.public_pem)
    return tmp_path / "signing.key"


def openssl(key: Path) -> str:
    return f"openssl dgst -sha256 -sign {shlex.quote(str(key.parent / 'hsm.pem'))}"


def python(script: str) -> str:
    return shlex.join([sys.executable, "-c", script])


def test_a_command_signs(key: Path) -> None:
    """Raw, as openssl answers, and in base64 with line breaks, as other programs do."""
    for command in (openssl(key), shlex.join(["sh", "-c", f"{openssl(key)} | base64"])):
        signer = load(key, command=command)
        assert signer.algorithm == "ecdsa-p256"
        assert TrustedKey(signer.public_pem).verifies(signer.sign(b"message"), b"message")


def test_it_gets_the_bytes_and_nothing_else(key: Path, tmp_path: Path) -> None:
    """On standard input, whatever they are."""
    message, seen = bytes(range(256)) * 5000, tmp_path / "seen"
    command = shlex.join(["sh", "-c", f"tee {shlex.quote(str(seen))} | {openssl(key)}"])
    load(key, command=command).sign(message)
    assert seen.read_bytes() == message


def test_the_ring_begins_with_it(key: Path) -> None:
    """There is no private file, neither before nor after."""
    made = load_or_create(key, command=openssl(key))
    assert [one.keyid for one in read_ring(key)] == [made.keyid]
    assert not key.exists()
    with pytest.raises(KeyFileError, match="cannot be written"):
        write_private(key, made)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; print('PIN is locked', file=sys.stderr); sys.exit(3)", "ended with code 3: PIN is locked"),
        ("import sys; sys.exit(1)", "ended with code 1: it printed nothing"),
        ("print('no signature')", "answered 13 bytes, which are no signature"),
        ("pass", "answered 0 bytes"),
        ("import os; os.write(1, bytes(64))", "answered 64 bytes"),
    ],
)
def test_a_command_that_does_not_sign_is_named(key: Path, script: str, said: str) -> None:
    """With what it said itself, and never a wrong signature."""
    with pytest.raises(SignerUnavailable, match=said):
        load(key, command=python(script)).sign(b"message")


def test_a_signature_by_another_key_is_refused(key: Path, tmp_path: Path) -> None:
    """The public half on disk is what readers trust: a signature that it does not verify would be worth nothing."""
    other = generate("ecdsa-p256")
    write_private(tmp_path / "other.pem", other)
    command = f"openssl dgst -sha256 -sign {shlex.quote(str(tmp_path / 'other.pem'))}"
    with pytest.raises(SignerUnavailable, match="no signature of the message under the public key"):
        load(key, command=command).sign(b"message")


def test_a_command_that_hangs_is_ended_with_its_children(key: Path, tmp_path: Path) -> None:
    """After the time that it has."""
    pid = tmp_path / "pid"
    command = shlex.join(["sh", "-c", f"sleep 600 & echo $! > {shlex.quote(str(pid))}; wait"])
    slow = external.CommandKey(tuple(shlex.split(command)), load(key, command="x").private.public_key(), seconds=0.5)
    with pytest.raises(SignerUnavailable, match=r"did not answer within 0\.5 seconds"):
        slow.sign(b"message")
    deadline = time.monotonic() + 60
    while _runs(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(int(pid.read_text()))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_is_not_there_is_named(key: Path) -> None:
    with pytest.raises(SignerUnavailable, match="does not start: No such file"):
        load(key, command="/nowhere/sign").sign(b"message")


def test_what_cannot_be_a_signer_is_refused(tmp_path: Path) -> None:
    """A line that is none, no public half, another kind of key, ML-DSA alone."""
    public = tmp_path / "k.pub"
    with pytest.raises(KeyFileError, match=r"needs the public half of its key \(PEM\) at .*k.pub"):
        command_key("sign", public)
    public.write_text("garbage")
    with pytest.raises(KeyFileError, match=r"k.pub: not a PEM public key"):
        command_key("sign", public)
    public.write_text(generate("ml-dsa-65").public_pem)
    with pytest.raises(KeyFileError, match="signs beside one of ed25519"):
        load(tmp_path / "k.key", command="sign")
    for line in ("sign 'it", "  "):
        with pytest.raises(KeyFileError, match="PERMAFROST_SIGNER is"):
            command_key(line, public)


def test_openssl_verifies_what_openssl_signed(key: Path, tmp_path: Path) -> None:
    """The signature that goes into an envelope is the tool's own."""
    signature = tmp_path / "sig"
    signature.write_bytes(load(key, command=shlex.join(["sh", "-c", f"{openssl(key)} | base64 -w0"])).sign(b"message"))
    (tmp_path / "message").write_bytes(b"message")
    command = ["openssl", "dgst", "-sha256", "-verify", str(key.with_suffix(".pub")), "-signature", str(signature)]
    done = subprocess.run([*command, str(tmp_path / "message")], capture_output=True, text=True, check=True)
    assert "Verified OK" in done.stdout


MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A token of SoftHSM 2 with a P-256 key that cannot leave it; the key's public half is where the service looks."""
    if not MODULE.exists() or shutil.which("pkcs11-tool") is None:
        pytest.skip("no PKCS#11 token: Debian's packages softhsm2 and opensc have one")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("PIN", "1234")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    tool = ("pkcs11-tool", "--module", str(MODULE), "--token-label", "permafrost")
    run("softhsm2-util", "--init-token", "--free", "--label", "permafrost", "--pin", "1234", "--so-pin", "1234")
    run(*tool, "--login", "--pin", "1234", "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01")
    run(*tool, "--read-object", "--type", "pubkey", "--id", "01", "-o", str(tmp_path / "key.der"))
    public = ("-in", str(tmp_path / "key.der"), "-out", str(tmp_path / "signing.pub"))
    run("openssl", "pkey", "-pubin", "-inform", "DER", *public)
    return tmp_path / "signing.key"


def test_a_pkcs_11_token_signs(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the script of the documentation, as it stands there; a wrong PIN is named by the token's own words."""
    page = (Path(__file__).parents[4] / "docs" / "evidence.md").read_text()
    match = re.search(r"```\n(#!/bin/sh\n.*?)```", page, re.DOTALL)
    assert match is not None
    script = token.with_name("sign")
    script.write_text(match[1])
    script.chmod(0o755)
    signer = load_or_create(token, command=str(script))
    assert signer.algorithm == "ecdsa-p256" and not token.exists()
    assert TrustedKey(signer.public_pem).verifies(signer.sign(b"message"), b"message")
    monkeypatch.setenv("PIN", "9999")
    with pytest.raises(SignerUnavailable, match="CKR_PIN_INCORRECT"):
        signer.sign(b"message")
