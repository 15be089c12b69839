import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner, Result

from app.cli.keys import app as permafrost_keys
from app.evidence.format.keys import (
    KeyFileError,
    TrustedKey,
    generate,
    load,
    load_or_create,
    read_ring,
    read_time,
    read_trusted,
    write_ring,
)
from app.evidence.format.rotation import introduced
from tests.patience import PATIENCE

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    """Mode 0600, PKCS #8, the public half beside it; the second call loads the same key."""
    path = tmp_path / "keys" / "signing.pem"
    key = load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert load_or_create(path).keyid == load(path).keyid == key.keyid
    assert [trusted.keyid for trusted in read_trusted(path.with_suffix(".pub"))] == [key.keyid]
    assert [trusted.keyid for trusted in read_ring(path)] == [key.keyid]
    assert not list(path.parent.glob(".signing*"))


def test_a_lost_key_leaves_its_ring(tmp_path: Path) -> None:
    """What it signed still counts; a new key is made beside it, which nobody introduced."""
    lost = load_or_create(tmp_path / "k.pem")
    (tmp_path / "k.pem").unlink()
    new = load_or_create(tmp_path / "k.pem")
    assert [key.keyid for key in read_ring(tmp_path / "k.pem")] == [new.keyid, lost.keyid]


def _keyid(path: str, queue: "multiprocessing.Queue[str]") -> None:
    queue.put(load_or_create(Path(path)).keyid)


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    """API and worker both make the key on first start; one of them wins for both."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    started = [context.Process(target=_keyid, args=(str(tmp_path / "k.pem"), queue)) for _ in range(4)]
    for process in started:
        process.start()
    keyids = {queue.get(timeout=PATIENCE) for _ in started}
    for process in started:
        process.join(timeout=PATIENCE)
        assert process.exitcode == 0
    assert keyids == {load(tmp_path / "k.pem").keyid}


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256"])
def test_signs_with_either_algorithm(algorithm: str) -> None:
    """A signature verifies under its key, over its message, and under nothing else."""
    key, other = generate(algorithm), generate(algorithm)
    signature = key.sign(b"message")
    assert key.algorithm == TrustedKey(key.public_pem).algorithm == algorithm
    assert TrustedKey(key.public_pem).verifies(signature, b"message")
    assert not TrustedKey(key.public_pem).verifies(signature, b"massage")
    assert not TrustedKey(other.public_pem).verifies(signature, b"message")
    assert not TrustedKey(key.public_pem).verifies(b"", b"message")


def test_refuses_other_kinds_of_keys(tmp_path: Path) -> None:
    """RSA, other curves, encrypted or broken files: the error says what would work."""
    path = tmp_path / "k.pem"
    for private in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(KeyFileError, match="ed25519"):
            load(path)
        path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(KeyFileError, match="ed25519"):
            read_trusted(path)
    path.write_text("nothing")
    with pytest.raises(KeyFileError):
        load(path)
    with pytest.raises(KeyFileError, match="neither"):
        read_trusted(path)
    with pytest.raises(KeyFileError, match="ecdsa-p256"):
        generate("rsa")


def test_a_ring_survives_its_file(tmp_path: Path) -> None:
    """Validity and revocation come back as they were written."""
    keys = [
        TrustedKey(generate().public_pem, NOW, NOW + timedelta(days=1), NOW + timedelta(hours=1)),
        TrustedKey(generate("ecdsa-p256").public_pem),
    ]
    write_ring(tmp_path / "k.pem", keys)
    assert read_trusted(tmp_path / "k.ring.json") == tuple(keys)


@pytest.mark.parametrize(
    "document",
    ["{}", '{"data": []}', '{"data": [1]}', '{"data": [{"public_key": "x"}]}', '{"data": [{"public_key": 1}]}'],
)
def test_refuses_what_is_no_ring(document: str, tmp_path: Path) -> None:
    """A ring without keys trusts nobody, and cannot be what was meant."""
    (tmp_path / "ring.json").write_text(document)
    with pytest.raises(KeyFileError):
        read_trusted(tmp_path / "ring.json")


def test_a_ring_cannot_misname_a_key(tmp_path: Path) -> None:
    """The id follows from the key."""
    entry = {**TrustedKey(generate().public_pem).to_json(), "id": "0" * 64}
    (tmp_path / "ring.json").write_text(json.dumps({"data": [entry]}))
    with pytest.raises(KeyFileError, match="own id"):
        read_trusted(tmp_path / "ring.json")


def test_times_have_zones() -> None:
    """A time without a zone is not guessed at."""
    assert read_time("2026-03-01T01:00:00+01:00") == NOW
    assert read_time(None) is None
    for text in ("2026-03-01T00:00:00", "soon", 7, "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"):
        with pytest.raises(KeyFileError):
            read_time(text)


def test_the_command_lists_rotates_and_revokes(tmp_path: Path) -> None:
    """What an operator types; a key that is not there is an error with those that are; the one that signs stays."""
    path = tmp_path / "signing.pem"
    old = load_or_create(path)

    def keys(*arguments: str) -> Result:
        return CliRunner().invoke(permafrost_keys, ["signing", *arguments, "--path", str(path)])

    assert old.keyid in keys("list").stdout
    assert "rotate first" in keys("revoke", old.keyid).stderr
    rotated = keys("rotate", "--algorithm", "ecdsa-p256")
    new = load(path)
    assert (rotated.exit_code, new.algorithm, new.keyid in rotated.stdout) == (0, "ecdsa-p256", True)
    assert keys("revoke", old.keyid).exit_code == 0
    lines = keys("list").stdout.splitlines()
    assert [("revoked" in line, line.split()[0]) for line in lines] == [(False, new.keyid), (True, old.keyid)]
    unknown = keys("revoke", "00")
    assert (unknown.exit_code, new.keyid in unknown.stderr) == (1, True)
    path.unlink()
    path.with_suffix(".ring.json").unlink()
    nothing = keys("list")
    assert (nothing.exit_code, f"no signing key at {path} yet" in nothing.stderr) == (1, True)


def test_what_is_told_about_a_key_never_widens(tmp_path: Path) -> None:
    """A ring that does not know of a revocation, or tells of one key twice, cannot make a revoked key count again."""
    pem, day = generate().public_pem, timedelta(days=1)
    revoked, silent = TrustedKey(pem, NOW, NOW + 2 * day, revoked_at=NOW), TrustedKey(pem, NOW - day, NOW + day)
    for trusted, ring in (([revoked], [silent]), ([silent], [revoked]), ([silent], [revoked, silent])):
        [key] = introduced(trusted, ring)
        assert (key.not_before, key.not_after, key.revoked_at) == (NOW, NOW + day, NOW)


def test_a_key_file_holds_one_key(tmp_path: Path) -> None:
    """Of two, the second would silently not be trusted. Text around a key is left alone, in whatever encoding."""
    one, other = generate().public_pem, generate().public_pem
    path = tmp_path / "key.pub"
    path.write_text(one + other)
    with pytest.raises(KeyFileError, match="several keys"):
        read_trusted(path)
    path.write_bytes(one.encode() + "Schlüssel".encode("latin-1"))
    assert [key.pem for key in read_trusted(path)] == [one]


@pytest.mark.parametrize("own", [False, True], ids=["given by a reader", "of the service"])
def test_a_key_ring_with_a_repeated_key_is_refused(own: bool, tmp_path: Path) -> None:
    """Read with the last one winning, the revoked key would be valid."""
    path = tmp_path / "signing.pem"
    load_or_create(path)
    ring = tmp_path / "signing.ring.json"
    ring.write_text(
        ring.read_text().replace('"revoked_at": null', '"revoked_at": "2026-01-01T00:00:00Z", "revoked_at": null')
    )
    with pytest.raises(KeyFileError, match=r"data\[0\]\.revoked_at' appears twice"):
        read_ring(path) if own else read_trusted(ring)
