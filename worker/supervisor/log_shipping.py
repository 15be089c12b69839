"""Copies what a trainer prints from its log file to the database, while it runs and when it has ended."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.db import Database
from app.jobs.queue.attempt import Lease
from app.logs import queries
from app.logs.redaction import redacted

#: Bytes that are read at a time; of a trainer that prints faster, the newest.
READ_BYTES: Final = 1 << 20
LINE_CHARACTERS: Final = 4_000


class LogShipper:
    """One attempt's log. `ship` may be called from any thread; a line is stored once, whole."""

    def __init__(self, db: Database, lease: Lease, path: Path, *, aliases: Mapping[str, str], label: str = "") -> None:
        """Each line begins with the `label`, which says whose log it is where several go to one job."""
        self._db = db
        self._lease = lease
        self._path = path
        self._aliases = aliases
        self._label = label
        self._offset = 0
        self._lock = threading.Lock()

    def ship(self, *, ended: bool = False) -> None:
        """Store new lines; an unfinished last line only once the trainer has `ended`."""
        with self._lock:
            text, offset = self._new(ended=ended)
            lines = [self._label + line for line in _lines(redacted(text, self._aliases))] if text else []
            if lines:
                with self._db.write() as session:
                    queries.append(session, self._lease.job_id, self._lease.attempt, lines)
            self._offset = offset  # only now: lines that the database did not take are read again

    def _new(self, *, ended: bool) -> tuple[str, int]:
        try:
            with self._path.open("rb") as log:
                size = log.seek(0, 2)
                start = max(self._offset, size - READ_BYTES)
                log.seek(start)
                content = log.read(size - start)
        except FileNotFoundError:
            return "", self._offset
        stop = len(content) if ended else content.rfind(b"\n") + 1
        if stop == 0 and len(content) == READ_BYTES:
            stop = READ_BYTES  # one line longer than what is read at a time
        text = content[:stop].decode("utf-8", "replace")
        if start > self._offset:
            text = f"[{start - self._offset} bytes are left out: too much was printed at once]\n{text}"
        return text, start + stop


def _lines(text: str) -> list[str]:
    """The lines of a text; of a line that was redrawn with carriage returns (a progress bar), the last state."""
    lines = []
    for line in text.removesuffix("\n").split("\n"):
        shown = line.rstrip("\r").rpartition("\r")[2].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        lines.append(shown if len(shown) <= LINE_CHARACTERS else f"{shown[:LINE_CHARACTERS]} [cut]")
    return lines
