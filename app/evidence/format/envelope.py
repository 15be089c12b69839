"""DSSE envelopes: the exact bytes of a payload, and signatures over these bytes and their type.

The payload is never serialised again: the signed bytes are the parsed bytes.
"""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from app.evidence.format.der import elements
from app.evidence.format.keys import SigningKey, TrustedKey
from app.evidence.format.strict import JsonError, JsonObject, read_json
from app.jsontypes import JsonDict

PAYLOAD_TYPE = "application/vnd.in-toto+json"
TIMESTAMP = "timestamp"  # the field with an RFC 3161 timestamp over a signature, in base64; no signature covers it
LOG_PROOF = "tlog_proof"  # the field with a proof (c2sp.org/tlog-proof) that a log has the statement; its own signature
RECIPE_TIMESTAMP = "recipeTimestamp"  # likewise over a signature of the recipe
MAX_SIGNATURES = 16  # enough for a key rotation; each more would cost time before anything is trusted


_MAX_PARTS = 1 << 17  # empty lists take twenty times their bytes in memory, before any signature is checked


class EnvelopeError(ValueError):
    """Bytes that are not a DSSE envelope."""


class Envelope(NamedTuple):
    """A parsed envelope of which nothing has been verified."""

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]
    document: JsonObject


def seal(payload: bytes, keys: Iterable[SigningKey]) -> JsonDict:
    """The envelope of a payload, with one signature per key."""
    message = pae(PAYLOAD_TYPE, payload)
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key.keyid, "sig": base64.b64encode(key.sign(message)).decode()} for key in keys],
    }


def accompanied(envelope: bytes, timestamps: bytes | None, log_proof: str | None = None) -> bytes:
    """A stored envelope with what accompanies it as further fields. What is signed stays as it is, byte for byte.

    `timestamps`: over the statement's signature, and after it, where there is one, over the recipe's.
    """
    found = zip((TIMESTAMP, RECIPE_TIMESTAMP), elements(timestamps or b""), strict=False)
    fields = {name: base64.b64encode(token).decode() for name, token in found}
    fields |= {LOG_PROOF: log_proof} if log_proof is not None else {}
    beside = "".join(f", {json.dumps(name)}: {json.dumps(text)}" for name, text in fields.items())
    return envelope.rstrip().removesuffix(b"}") + beside.encode() + b"}" if beside else envelope


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def read_envelope(raw: bytes) -> Envelope:
    """Parse an envelope. Unknown fields are ignored, as DSSE requires. Raises EnvelopeError."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _MAX_PARTS:
        raise EnvelopeError(f"envelope: of more than {_MAX_PARTS} parts; it has a payload, its type and signatures")
    try:
        document = read_json(raw)
    except JsonError as error:
        raise EnvelopeError(f"envelope: {error}") from None
    return _envelope(document, "envelope")


def envelope_inside(envelope: Envelope, name: str) -> Envelope | None:
    """The envelope that a member of this envelope is, in its parsed document; None without such a member.

    Raises EnvelopeError for a member that is no envelope.
    """
    return _envelope(envelope.document[name], f"envelope.{name}") if name in envelope.document else None


def signers_of(envelope: Envelope, keys: Iterable[TrustedKey]) -> list[TrustedKey]:
    """The keys under which a signature verifies. The envelope's own `keyid` fields are ignored."""
    message = pae(envelope.payload_type, envelope.payload)
    return [key for key in keys if any(key.verifies(signature, message) for signature in envelope.signatures)]


def _envelope(document: Any, where: str) -> Envelope:
    if not isinstance(document, JsonObject):
        raise EnvelopeError(f"{where}: not a JSON object")
    payload, kind, signatures = (document.get(key) for key in ("payload", "payloadType", "signatures"))
    if not isinstance(payload, str) or not isinstance(kind, str) or not isinstance(signatures, list):
        raise EnvelopeError(f"{where}: payload and payloadType are strings, signatures is a list")
    sigs = tuple(_signature(entry, at, where) for at, entry in enumerate(signatures[: MAX_SIGNATURES + 1]))
    document["payload"] = ""  # larger than what it stands for
    return Envelope(_base64(payload, f"{where}: payload"), kind, sigs, document)


def _signature(entry: Any, at: int, where: str) -> bytes:
    if not isinstance(entry, dict) or not isinstance(entry.get("sig"), str):
        raise EnvelopeError(f"{where}: signatures[{at}] is an object with a sig")
    return _base64(entry["sig"], f"{where}: signatures[{at}].sig")


def _base64(text: str, at: str) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise EnvelopeError(f"{at} is not base64") from None
    last = len(data) - (len(data) % 3 or 3)  # the only characters that may have bits to spare
    if base64.b64encode(data[max(last, 0) :]) != text[-4:].encode():
        raise EnvelopeError(f"{at} is not canonical base64: unused bits of its last character are set")
    return data
