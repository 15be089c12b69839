import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from app.evidence.format.envelope import EnvelopeError, pae, read_envelope, seal, signers_of
from app.evidence.format.keys import ALGORITHMS, SigningKey, TrustedKey, generate

KEYS = {algorithm: generate(algorithm) for algorithm in ALGORITHMS}


@pytest.fixture(params=ALGORITHMS)
def key(request: pytest.FixtureRequest) -> SigningKey:
    return KEYS[request.param]


def test_pae_is_dsses() -> None:
    """The example of the DSSE specification."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.binary(max_size=64))
def test_opens_what_it_seals(payload: bytes) -> None:
    """The payload's bytes come back, and the signature is found to be the key's and no other's."""
    key, other = KEYS["ed25519"], KEYS["ecdsa-p256"]
    envelope = read_envelope(json.dumps(seal(payload, [key])).encode())
    trusted = [TrustedKey(key.public_pem), TrustedKey(other.public_pem)]
    assert envelope.payload == payload
    assert signers_of(envelope, trusted) == trusted[:1]


def test_two_signatures_during_an_overlap() -> None:
    """Whoever trusts either key is served."""
    envelope = read_envelope(json.dumps(seal(b"{}", list(KEYS.values()))).encode())
    for key in KEYS.values():
        assert len(signers_of(envelope, [TrustedKey(key.public_pem)])) == 1


def test_securesystemslib_accepts_ours(key: SigningKey) -> None:
    """The DSSE implementation of in-toto verifies what we seal, and not what was edited after."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    sealed = seal(b'{"a":1}', [key])
    public = SSlibKey.from_crypto(load_pem_public_key(key.public_pem.encode()), key.keyid)
    assert key.keyid in OtherEnvelope.from_dict(json.loads(json.dumps(sealed))).verify([public], 1)
    edited = {**sealed, "payload": base64.b64encode(b'{"a":2}').decode()}
    with pytest.raises(VerificationError):
        OtherEnvelope.from_dict(json.loads(json.dumps(edited))).verify([public], 1)


def test_openssl_accepts_ours(key: SigningKey, tmp_path: Path) -> None:
    """The signature is over the PAE, which somebody can put together in a shell."""
    if not shutil.which("openssl"):
        pytest.skip("this machine has no openssl")
    sealed = seal(b'{"a":1}', [key])
    (tmp_path / "key.pub").write_text(key.public_pem)
    (tmp_path / "message").write_bytes(pae(sealed["payloadType"], base64.b64decode(sealed["payload"])))
    (tmp_path / "signature").write_bytes(base64.b64decode(sealed["signatures"][0]["sig"]))
    how = ["-rawin"] if key.algorithm == "ed25519" else ["-rawin", "-digest", "sha256"]
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pub",
        "-in",
        "message",
        "-sigfile",
        "signature",
    ]
    done = subprocess.run([*command, *how], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Verified Successfully" in done.stdout) == (0, True), done.stderr
    (tmp_path / "message").write_bytes(b"another")
    assert subprocess.run([*command, *how], cwd=tmp_path, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"payload": 1, "payloadType": "a", "signatures": []}',
        b'{"payload": "", "payloadType": "a", "signatures": {}}',
        b'{"payload": "", "payloadType": "a", "signatures": [1]}',
        b'{"payload": "", "payloadType": "a", "signatures": [{"sig": 1}]}',
        b'{"payload": "e30", "payloadType": "a", "signatures": []}',
        b'{"payload": "e3_0", "payloadType": "a", "signatures": []}',
        b'{"payload": "", "payloadType": "a", "signatures": [{"sig": "?"}]}',
        b'{"payload": "e31=", "payloadType": "a", "signatures": []}',
        b'{"payload": "e30=\\n", "payloadType": "a", "signatures": []}',
        b'{"payload": "e30=", "payloadType": "a", "signatures": [], "more": [' + b"1," * (1 << 17) + b"1]}",
    ],
)
def test_refuses_what_is_no_envelope(document: bytes) -> None:
    """Another shape, text that is not base64 as it is written, or more parts than an envelope has."""
    with pytest.raises(EnvelopeError):
        read_envelope(document)


def test_unknown_fields_are_left_alone() -> None:
    """DSSE asks for it: bundles carry certificates and the like."""
    sealed = seal(b"{}", [KEYS["ed25519"]])
    sealed["signatures"][0]["cert"] = "..."
    assert read_envelope(json.dumps({**sealed, "comment": 1}).encode()).payload == b"{}"
