"""`model.sig`, a bundle of OpenSSF model signing, with which an independent tool can check a result's files.

Format 1.0 lists files by SHA-256 in an in-toto statement in a DSSE envelope in a Sigstore bundle. It takes P-256 keys
only. It says nothing about tensors; the bundle names our statement by digest.
"""

import hashlib
from collections.abc import Iterable, Sequence
from json import dumps

from app.evidence.format.envelope import seal
from app.evidence.format.keys import KeyFileError, SigningKey
from app.evidence.format.statement import STATEMENT_TYPE, FileRef
from app.jsontypes import JsonDict

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# What may lie beside a model without being signed: the tool's own list, and the two attestations.
IGNORED = (".git", ".gitattributes", ".github", ".gitignore", "attestation.json", "model.sig")


def offer(files: Iterable[FileRef], keys: Sequence[SigningKey], *, name: str, payload: bytes) -> bytes | None:
    """The bundle signed by the first P-256 key, naming our statement `payload`; None without such a key."""
    key = next((key for key in keys if key.algorithm == "ecdsa-p256"), None)
    if key is None:
        return None
    return dumps(model_sig(files, key, name=name, statement=hashlib.sha256(payload).hexdigest())).encode()


def model_sig(files: Iterable[FileRef], key: SigningKey, *, name: str, statement: str | None = None) -> JsonDict:
    """The bundle for a result's files; `statement` is the SHA-256 of our statement's payload. Raises KeyFileError."""
    if key.algorithm != "ecdsa-p256":
        raise KeyFileError(f"model signing does not take {key.algorithm} keys; use an ecdsa-p256 key")
    ordered = sorted(files, key=lambda file: file.name)
    root = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in ordered)).hexdigest()
    predicate: JsonDict = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": list(IGNORED),
        },
        "resources": [{"name": file.name, "algorithm": "sha256", "digest": file.sha256} for file in ordered],
    }
    if statement is not None:  # fields that the format does not know are ignored by its verifiers
        predicate["frozenParameters"] = {"statement": {"digest": {"sha256": statement}}}
    payload = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    envelope = seal(dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(), [key])
    hint = hashlib.sha256(key.public_pem.encode()).hexdigest()
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
