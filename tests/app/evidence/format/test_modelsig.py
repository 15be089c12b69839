import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from app.evidence.format.envelope import read_envelope, signers_of
from app.evidence.format.keys import KeyFileError, SigningKey, TrustedKey, generate
from app.evidence.format.modelsig import model_sig
from tests.tamper.kit import World, flipped
from tools import peers


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return generate("ecdsa-p256")


def test_lists_files_and_names_our_statement(tmp_path: Path, key: SigningKey) -> None:
    """A DSSE envelope under our key; the subject's digest is over the files' digests in order of name."""
    world = World(tmp_path)
    files = world.predicate().result_files
    bundle = model_sig(reversed(files), key, name="toy", statement="ab" * 32)
    envelope = read_envelope(json.dumps(bundle["dsseEnvelope"]).encode())
    assert signers_of(envelope, [TrustedKey(key.public_pem)])
    statement = json.loads(envelope.payload)
    assert [one["name"] for one in statement["predicate"]["resources"]] == ["config.json", "model.safetensors"]
    together = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in files)).hexdigest()
    assert statement["subject"] == [{"name": "toy", "digest": {"sha256": together}}]
    assert statement["predicate"]["frozenParameters"]["statement"]["digest"]["sha256"] == "ab" * 32
    assert base64.b64decode(bundle["dsseEnvelope"]["payload"]) == envelope.payload


def test_takes_no_ed25519_key(tmp_path: Path) -> None:
    """The stock tool fails on them; better no bundle than one that nobody can verify."""
    with pytest.raises(KeyFileError, match="ecdsa-p256"):
        model_sig([], generate("ed25519"), name="toy")


def test_the_stock_tool_accepts_it(tmp_path: Path, key: SigningKey) -> None:
    """`model_signing verify key` accepts the honest result, and not one with a flipped bit or an extra file."""
    world = World(tmp_path)
    world.sign()
    bundle = model_sig(world.predicate().result_files, key, name="toy", statement="ab" * 32)
    (world.result / "model.sig").write_text(json.dumps(bundle))
    (world.result / "attestation.json").write_bytes(world.attestation.read_bytes())
    world.attestation = world.result / "attestation.json"
    (tmp_path / "key.pub").write_text(key.public_pem)
    command = [str(peers.command("model-signing")), "verify", "key", "--signature", str(world.result / "model.sig")]
    command += ["--public_key", str(tmp_path / "key.pub"), str(world.result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.verify(1).verified  # and ours accepts a folder with theirs in it
    path = world.result / "model.safetensors"
    honest = path.read_bytes()
    path.write_bytes(flipped(honest, len(honest) - 1))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    path.write_bytes(honest)
    (world.result / "extra").touch()
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
