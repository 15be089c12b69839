"""Signed notes (c2sp.org/signed-note), and the checkpoints of a log that are such notes (c2sp.org/tlog-checkpoint).

A line of a signature has a key's name and 4 bytes of its digest; which key that is comes from the reader alone.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04  # Ed25519 with a time, by a witness (c2sp.org/tlog-cosignature)
MAX_NOTE: Final = 64 << 10  # bytes
MAX_SIGNATURES: Final = 64
_LINE: Final = "\u2014 "


class NoteError(ValueError):
    """Text that is no signed note, no checkpoint or no key of one."""


class NoteKey(NamedTuple):
    """A public key of a log or a witness, with the name that goes with it."""

    name: str
    public: bytes  # 32 bytes
    kind: int = ED25519

    @property
    def hash(self) -> bytes:
        """The four bytes by which a line of a signature names this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        """The key as one line of text: a `vkey` of the notes' own specification."""
        return f"{self.name}+{self.hash.hex()}+{_encode(bytes([self.kind]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> "NoteKey":
        """The key that such a line names. Raises NoteError."""
        name, _, rest = text.strip().partition("+")
        digest, _, material = rest.partition("+")
        raw = _decode(material, "the key's bytes")
        if not raw or raw[0] not in (ED25519, COSIGNATURE) or len(raw) != 33:
            raise NoteError(f"{text.strip()[:80]!r} is no Ed25519 key such as name+1a2b3c4d+AbCd…")
        key = cls(checked_name(name), raw[1:], raw[0])
        if key.hash.hex() != digest:
            raise NoteError(f"the key of {name!r} has the hash {key.hash.hex()}, and the line says {digest[:80]!r}")
        return key

    def verifies(self, signature: bytes, text: str) -> bool:
        """Whether this is the key's signature of a note's text."""
        if self.kind == COSIGNATURE:
            if len(signature) != 72:
                return False
            text, signature = _cosigned(text, int.from_bytes(signature[:8])), signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


class NoteLine(NamedTuple):
    """One signature of a note, of which nothing has been verified."""

    name: str
    hash: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_LINE}{self.name} {_encode(self.hash + self.signature)}\n"


class Note(NamedTuple):
    """A text with signatures, of which nothing has been verified."""

    text: str
    lines: tuple[NoteLine, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.lines))

    def by(self, key: NoteKey) -> NoteLine | None:
        """The first line by this key. Raises NoteError where a line names the key and is not its signature."""
        named = [line for line in self.lines if (line.name, line.hash) == (key.name, key.hash)]
        for line in named:
            if not key.verifies(line.signature, self.text):
                raise NoteError(f"the signature of {key.name!r} does not fit")
        return named[0] if named else None

    def with_lines(self, lines: Iterable[NoteLine]) -> "Note":
        """The note with further signatures; one of a key that has signed already takes the place of the older."""
        new = {(line.name, line.hash): line for line in lines}
        kept = [line for line in self.lines if (line.name, line.hash) not in new]
        return Note(self.text, (*kept, *new.values()))


class LogHead(NamedTuple):
    """The state of a log: how many entries it has, and the root of the tree over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> "LogHead":
        """The state that a note's text names. Raises NoteError."""
        origin, *rest = text.split("\n")
        if len(rest) < 3 or not re.fullmatch(r"0|[1-9][0-9]{0,17}", rest[0]):
            raise NoteError("a checkpoint has the log's name, the number of its entries and the root, a line each")
        root = _decode(rest[1], "the checkpoint's root")
        if len(root) != 32:
            raise NoteError("the checkpoint's root is no SHA-256")
        return cls(checked_name(origin), int(rest[0]), root)


def read_note(raw: bytes | str) -> Note:
    """Parse a signed note. Raises NoteError."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        raise NoteError("not UTF-8") from None
    if len(text) > MAX_NOTE:
        raise NoteError(f"{len(text)} characters; a note has at most {MAX_NOTE}")
    if re.search(r"[\x00-\x09\x0b-\x1f]", text):
        raise NoteError("it has control characters")
    body, blank, signatures = text.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteError("no signed note: a text, an empty line, and lines of signatures")
    lines = signatures.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"more than {MAX_SIGNATURES} signatures")
    return Note(body + "\n", tuple(map(read_line, lines)))


def read_line(text: str) -> NoteLine:
    """Parse one line with a signature. Raises NoteError."""
    name, space, encoded = text.removeprefix(_LINE).partition(" ")
    if not text.startswith(_LINE) or not space:
        raise NoteError(f"{text[:80]!r} is no signature such as '\u2014 name base64'")
    raw = _decode(encoded, f"the signature of {name!r}")
    if len(raw) < 5:
        raise NoteError(f"the signature of {name[:80]!r} is too short")
    return NoteLine(checked_name(name), raw[:4], raw[4:])


def read_keys(text: str) -> tuple[NoteKey, ...]:
    """The keys in a text with one a line; empty lines and comments (#) are passed over. Raises NoteError."""
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    return tuple(map(NoteKey.parse, lines))


def sign(text: str, private: Ed25519PrivateKey, name: str) -> NoteLine:
    """A log's signature of a text."""
    return NoteLine(name, key_of(private, name).hash, private.sign(text.encode()))


def cosign(text: str, private: Ed25519PrivateKey, name: str, *, at: int) -> NoteLine:
    """A witness' signature of a checkpoint's text, at a time in seconds since 1970."""
    key = key_of(private, name, COSIGNATURE)
    return NoteLine(name, key.hash, at.to_bytes(8) + private.sign(_cosigned(text, at).encode()))


def key_of(private: Ed25519PrivateKey, name: str, kind: int = ED25519) -> NoteKey:
    return NoteKey(checked_name(name), private.public_key().public_bytes_raw(), kind)


def time_of(line: NoteLine) -> datetime | None:
    """When a witness signed; None for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(int.from_bytes(line.signature[:8]), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def signed_state(note: Note, keys: Sequence[NoteKey]) -> LogHead:
    """The state that a checkpoint names, signed by one of these logs' keys. Raises NoteError."""
    state = LogHead.parse(note.text)
    signers = [key for key in keys if key.kind == ED25519 and note.by(key) is not None]
    if not signers:
        names = ", ".join(sorted({repr(line.name) for line in note.lines}))
        raise NoteError(f"signed by {names}, and by none of the log keys that you trust")
    if all(key.name != state.origin for key in signers):
        raise NoteError(f"it is of the log {state.origin!r}, and signed by the key of {signers[0].name!r}")
    return state


def checked_name(name: str) -> str:
    """The name of a key or a log. Raises NoteError where notes allow no such name."""
    if not name or len(name) > 256 or "+" in name or not name.isprintable() or any(map(str.isspace, name)):
        raise NoteError(f"{name[:80]!r} is no name of a log or a key: not empty, without spaces and '+'")
    return name


def _cosigned(text: str, at: int) -> str:
    return f"cosignature/v1\ntime {at}\n{text}"


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(text: str, what: str) -> bytes:
    try:
        raw = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, ValueError):
        raw = b""
    if _encode(raw) != text:  # also for unused bits that are set
        raise NoteError(f"{what}: {text[:80]!r} is not base64")
    return raw
