"""Looks whether this worker is invited to a gang, while it has a free device; messages of the broker go to anyone."""

import threading
from collections.abc import Callable
from typing import Final

import structlog

from app.db import Database
from app.jobs.queue import gang_rows
from worker.supervisor.lease import AWAY

log = structlog.get_logger(__name__)

#: Seconds between looks.
LOOK_SECONDS: Final = 0.5


class Door:
    """A thread that calls `start` when an invitation waits for `worker` and `free` says that there is a device."""

    def __init__(self, db: Database, worker: str, *, free: Callable[[], bool], start: Callable[[], None]) -> None:
        self._db, self._worker, self._free, self._start = db, worker, free, start
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gang-door", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> bool:
        """Whether an invitation was found and answered."""
        if not self._free() or gang_rows.invitation(self._db, self._worker) is None:
            return False
        self._start()
        return True

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            try:
                self.look()
            except AWAY as error:
                log.warning("the database did not say whether a gang forms", error=str(error))
