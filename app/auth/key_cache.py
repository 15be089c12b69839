"""API keys that were correct a few seconds ago, so that polling does not query the database; and their last use."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from app.auth.api_keys import digest, find
from app.auth.person import SignedIn
from app.auth.tables import ApiKey
from app.db import Database, now

log = structlog.get_logger("app.keys")

#: How long a key that another process revoked may go on working in this process. Expiry is exact.
REMEMBER_SECONDS: Final = 5.0
#: Resolution of `last_used_at`.
USE_SECONDS: Final = 60.0
#: Keys remembered at a time.
_CAPACITY: Final = 10_000


#: The key of what a request presents, or the person of a session; None where that is not, or no longer, good.
Finder = Callable[[Session, str], ApiKey | SignedIn | None]


@dataclass(frozen=True, slots=True)
class _CachedKey:
    key: ApiKey | SignedIn
    until: float


class KeyCache:
    """Looks up API keys, by `find` of what was presented: a key, or a session's token.

    What is incorrect is never remembered, so it cannot displace what is correct.
    """

    def __init__(self, db: Database, *, find: Finder = find, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._find = find
        self._clock = clock
        self._cached: dict[str, _CachedKey] = {}
        self._used: dict[str, float] = {}
        self._uses: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def remembered(self, presented: str) -> ApiKey | SignedIn | None:
        """The key, if it was correct within the last seconds. Does not touch the database."""
        cached = self._cached.get(digest(presented))
        if cached is None or cached.until < self._clock() or not cached.key.valid(datetime.now(UTC)):
            return None
        return cached.key

    def look_up(self, presented: str) -> ApiKey | SignedIn | None:
        """The key from the database, which is remembered if it is correct."""
        with self._db.read() as session:
            key = self._find(session, presented)
        if key is None:
            self._cached.pop(digest(presented), None)
            return None

        if len(self._cached) >= _CAPACITY:
            self._cached.clear()
        self._cached[digest(presented)] = _CachedKey(key, self._clock() + REMEMBER_SECONDS)
        return key

    def forget(self, presented: str) -> None:
        """Looks it up anew the next time: it was just ended."""
        self._cached.pop(digest(presented), None)

    def used(self, key_id: str) -> None:
        """Records the use of a key, at most once a minute, from a background thread: no request waits for it."""
        at = self._clock()
        if at - self._used.get(key_id, -USE_SECONDS) < USE_SECONDS:
            return
        self._used[key_id] = at

        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="key-uses", daemon=True)
                self._thread.start()
        self._uses.put(key_id)

    def close(self, *, seconds: float = 2.0) -> None:
        """Writes the uses that are queued, for at most `seconds`."""
        if self._thread is not None:
            self._uses.put(None)
            self._thread.join(seconds)

    def _write(self) -> None:
        while (key_id := self._uses.get()) is not None:
            try:
                self._record_use(key_id)
            except Exception as error:  # noqa: BLE001 - a busy or absent database: the use in the next minute is recorded instead
                log.warning("the use of a key could not be recorded", key=key_id, error=str(error))

    def _record_use(self, key_id: str) -> None:
        with self._db.write() as session:
            at = now(session)
            # Another process may have recorded a use within this minute.
            outdated = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < at - timedelta(seconds=USE_SECONDS))
            session.execute(update(ApiKey).where(ApiKey.id == key_id, outdated).values(last_used_at=at))
