"""The keys that were right a moment ago, so that a poll does not ask the database who polls; and when each was used."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import or_, update

from app.auth.api_keys import digest, find
from app.auth.tables import Key
from app.db import Database, now

log = structlog.get_logger("app.keys")

#: For so long a key that is revoked elsewhere goes on working in this process. Expiry is exact.
REMEMBER_SECONDS: Final = 5.0
#: `last_used_at` is as exact as this.
USE_SECONDS: Final = 60.0
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key
    until: float


class KeyRing:
    """Looks keys up. Wrong ones are never remembered, so they cannot crowd the right ones out."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._used: dict[str, float] = {}
        self._notes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def remembered(self, presented: str) -> Key | None:
        """The key, if it was right within the last seconds. Touches no database."""
        known = self._known.get(digest(presented))
        if known is None or known.until < self._clock() or not known.key.valid(datetime.now(UTC)):
            return None
        return known.key

    def look_up(self, presented: str) -> Key | None:
        with self._db.read() as session:
            key = find(session, presented)
        if key is None:
            self._known.pop(digest(presented), None)
            return None
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[digest(presented)] = _Known(key, self._clock() + REMEMBER_SECONDS)
        return key

    def used(self, key_id: str) -> None:
        """Notes the use, once a minute, from a thread of its own: no request waits for it."""
        at = self._clock()
        if at - self._used.get(key_id, -USE_SECONDS) < USE_SECONDS:
            return
        self._used[key_id] = at
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="keys", daemon=True)
                self._thread.start()
        self._notes.put(key_id)

    def close(self, *, seconds: float = 2.0) -> None:
        """Writes what is noted, for at most `seconds`."""
        if self._thread is not None:
            self._notes.put(None)
            self._thread.join(seconds)

    def _write(self) -> None:
        while (key_id := self._notes.get()) is not None:
            try:
                self._note(key_id)
            except Exception as error:  # a busy or absent database: the next minute's use is noted then
                log.warning("the use of a key could not be noted", key=key_id, error=str(error))

    def _note(self, key_id: str) -> None:
        with self._db.write() as session:
            at = now(session)
            # Another process may have noted it within this minute.
            old = or_(Key.last_used_at.is_(None), Key.last_used_at < at - timedelta(seconds=USE_SECONDS))
            session.execute(update(Key).where(Key.id == key_id, old).values(last_used_at=at))
