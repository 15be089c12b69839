"""Rings the broker from a thread of its own: a request never waits for a broker that is slow, silent or gone."""

import queue
import threading
from collections.abc import Callable

import structlog
from celery import Celery

from app.broker.celery import ring, ring_model

log = structlog.get_logger("app.broker.notifier")


class Doorbell:
    """Takes ids after the commit. One that cannot be delivered is logged and dropped: the sweep rings again."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._calls: queue.SimpleQueue[tuple[Callable[[Celery, str], None], str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def ring(self, job_id: str) -> None:
        self._put(ring, job_id)

    def ring_model(self, model_id: str) -> None:
        self._put(ring_model, model_id)

    def close(self, *, seconds: float = 2.0) -> None:
        """Delivers what is waiting, for at most `seconds`; the thread is a daemon, so a silent broker stops nothing."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(seconds)

    def _put(self, call: Callable[[Celery, str], None], subject: str) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name="doorbell", daemon=True)
                self._thread.start()
        self._calls.put((call, subject))

    def _deliver(self) -> None:
        while (each := self._calls.get()) is not None:
            call, subject = each
            try:
                call(self._celery, subject)
            except Exception as error:  # whatever the broker's client raises: the row is safe, only the bell is lost
                log.warning(
                    "the broker did not take a message; the sweep will ring again", subject=subject, error=str(error)
                )
