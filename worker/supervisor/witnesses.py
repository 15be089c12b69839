"""Asks witnesses (PERMAFROST_LOG_WITNESSES) to cosign the log's checkpoint, by c2sp.org/tlog-witness.

A witness signs only what goes on from the last checkpoint of the log that it has seen: readers who trust it know that
they are shown the same log as everybody.
"""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import httpx2
import structlog

from app.errors import PermafrostError
from app.evidence.format.note import COSIGNATURE, LogHead, Note, NoteError, NoteKey, NoteLine, read_line, read_note
from app.evidence.format.tiles import TileError
from app.evidence.transparency.journal import Journal
from app.evidence.transparency.tile_files import TileFiles
from worker.supervisor.tls import certificates

log = structlog.get_logger(__name__)

SECONDS: Final = 10.0
_MOST: Final = 16 << 10  # bytes of an answer


class NotCosigned(Exception):
    """A witness did not cosign, for the reason in words."""


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness: its public key, with its name, and the URL below which it answers."""

    key: NoteKey
    url: str


def read_witnesses(text: str) -> tuple[Cosigner, ...]:
    """Witnesses in a setting: a key (vkey) and a URL each, with commas between them. Raises NoteError."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        key, _, url = part.partition(" ")
        if not re.match(r"https?://[^/\s]", url.strip()):
            raise NoteError(f"{part[:80]!r} is no witness such as 'name+1a2b3c4d+BAbC… https://witness.example/'")
        witness = Cosigner(NoteKey.parse(key), url.strip().rstrip("/"))
        if witness.key.kind != COSIGNATURE:
            raise NoteError(f"{witness.key.name!r}: this key is not one of a witness, which signs with a time")
        found.append(witness)
    return tuple(found)


def ask_all(journal: Journal, witnesses: Iterable[Cosigner]) -> int:
    """Ask the witnesses that have not cosigned the newest checkpoint. Returns how many did now."""
    text = journal.checkpoint()
    if text is None:
        return 0
    note, lines = read_note(text), []
    for witness in witnesses:
        try:
            if note.by(witness.key) is None:
                lines.append(_asked(journal, witness, note))
        except (NotCosigned, NoteError, TileError, PermafrostError) as error:
            log.warning("a witness did not cosign the log", witness=witness.key.name, reason=str(error))
    return len(lines) if lines and journal.add_lines(note, lines) else 0


def _asked(journal: Journal, witness: Cosigner, note: Note) -> NoteLine:
    """The cosignature of a witness. It is asked again where it knows another checkpoint than the one before."""
    head, old = LogHead.parse(note.text), 0
    for _ in range(2):
        status, answer = _post(witness, _request(journal, head, old, note))
        if status == 409 and re.fullmatch(r"[0-9]{1,18}\n", answer):
            old = int(answer)
            continue
        if status != 200:
            raise NotCosigned(f"it answered with status {status}: {answer[:200]}")
        line = note.with_lines(map(read_line, answer.splitlines())).by(witness.key)
        if line is None:
            raise NotCosigned("its answer has no signature by its key")
        return line
    raise NotCosigned(f"it has seen a log of {old} entries, and this one has {head.size}")


def _request(journal: Journal, head: LogHead, old: int, note: Note) -> bytes:
    path = TileFiles(journal.storage).tree(head.size).consistency(old) if 0 < old < head.size else []
    lines = "".join(f"{base64.b64encode(each).decode()}\n" for each in path)
    return f"old {old}\n{lines}\n{note}".encode()


def _post(witness: Cosigner, body: bytes) -> tuple[int, str]:
    try:
        with httpx2.stream(
            "POST", f"{witness.url}/add-checkpoint", content=body, timeout=SECONDS, verify=certificates()
        ) as response:
            answer = b""
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > _MOST:
                    raise NotCosigned(f"it answered with more than {_MOST} bytes")
            return response.status_code, answer.decode(errors="replace")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise NotCosigned(f"{type(error).__name__}: {error}") from None
