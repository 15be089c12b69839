"""What a transparency log has of a statement, and the proof that the log has it (c2sp.org/tlog-proof).

An entry holds digests alone: who does not have the statement learns neither its job nor what it says.
"""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.evidence.format.note import LogHead, Note, NoteError, read_note
from app.evidence.format.tiles import leaf_hash, root_of_path

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_PATH: Final = 64
_ENTRY: Final = "permafrost.log/v1/"


class LogProofError(ValueError):
    """Text that is no proof of a log."""


class Entry(NamedTuple):
    """An entry of a log. `subject` is equal for entries of which there should be one, such as those of one attempt."""

    kind: str  # "statement" | "base"
    subject: str
    digests: tuple[tuple[str, str], ...]

    @property
    def raw(self) -> bytes:
        """The entry's bytes, which are hashed."""
        fields = {"kind": _ENTRY + self.kind, "subject": self.subject, **dict(self.digests)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @property
    def leaf(self) -> bytes:
        return leaf_hash(self.raw)


def statement_entry(statement: bytes, recipe: bytes | None, *, job: str, attempt: int) -> Entry:
    """The entry of a signed statement, and of the recipe beside it."""
    digests = [("statement", _sha256(statement))]
    digests += [("recipe", _sha256(recipe))] if recipe is not None else []
    return Entry("statement", subject_of_attempt(job, attempt), tuple(sorted(digests)))


def subject_of_attempt(job: str, attempt: int) -> str:
    """The subject of every statement about an attempt of a job."""
    return _subject("attempt", job, str(attempt))


def base_entry(root: str, *, name: str) -> Entry:
    """The entry of a base model that was registered under a name."""
    return Entry("base", _subject("base", name), (("root", root),))


def read_entry(raw: bytes) -> Entry | None:
    """An entry by its bytes; None for an entry of another kind, which a later version may have written."""
    try:
        fields = json.loads(raw)
        kind, subject = fields.pop("kind").removeprefix(_ENTRY), fields.pop("subject")
        entry = Entry(kind, subject, tuple(sorted(fields.items())))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return entry if kind in ("statement", "base") and entry.raw == raw else None


@dataclass(frozen=True, slots=True)
class LogProof:
    """Where an entry is in a log, the path from it to the root, and the signed checkpoint with that root."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: Note

    def __str__(self) -> str:
        lines = "".join(f"{_base64(each)}\n" for each in self.path)
        return f"{HEADER}\nindex {self.index}\n{lines}\n{self.checkpoint}"

    def root(self, leaf: bytes, *, size: int) -> bytes | None:
        """The root that the path leads to from an entry's hash, in a log of this size."""
        return root_of_path(leaf, index=self.index, size=size, path=self.path)


class SignedProof(NamedTuple):
    """A proof with the state of the log that it is about. Of both nothing has been verified but their form."""

    proof: LogProof
    state: LogHead


def read_proof(text: str) -> LogProof:
    """Parse a proof. Raises LogProofError."""
    head, blank, note = text.partition("\n\n")
    header, *lines = head.split("\n")
    if header != HEADER or not blank:
        raise LogProofError(f"no proof of a log: its first line is {HEADER}")
    if lines and lines[0].startswith("extra "):
        del lines[0]
    match = re.fullmatch(r"index (0|[1-9][0-9]{0,17})", lines[0], re.ASCII) if lines else None
    if match is None:
        raise LogProofError("the line with the entry's index is missing")
    if len(lines) > MAX_PATH + 1:
        raise LogProofError(f"more than {MAX_PATH} hashes")
    try:
        return LogProof(int(match[1]), tuple(map(_hash, lines[1:])), read_note(note))
    except NoteError as error:
        raise LogProofError(f"its checkpoint: {error}") from None


def _hash(line: str) -> bytes:
    try:
        raw = base64.b64decode(line.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or _base64(raw) != line:
        raise LogProofError(f"{line[:80]!r} is no SHA-256 in base64")
    return raw


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _subject(*parts: str) -> str:
    return _sha256(_ENTRY.encode() + "\0".join(parts).encode())
