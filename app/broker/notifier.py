"""Sends wake messages to workers from a background thread: no request waits for a broker that is slow or gone."""

import queue
import threading
from collections.abc import Callable

import structlog
from celery import Celery

from app.broker.celery import wake, wake_model

log = structlog.get_logger("app.broker.notifier")


class Notifier:
    """Takes ids after the commit. A message that cannot be sent is logged and dropped: maintenance sends another."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._calls: queue.SimpleQueue[tuple[Callable[[Celery, str], None], str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def wake(self, job_id: str) -> None:
        """Tells a worker to look at the queue, where this job waits."""
        self._put(wake, job_id)

    def wake_model(self, model_id: str) -> None:
        """Tells a worker to read the files of a new base model."""
        self._put(wake_model, model_id)

    def close(self, *, seconds: float = 2.0) -> None:
        """Sends what is queued, for at most `seconds`. The thread is a daemon, so a silent broker cannot block exit."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(seconds)

    def _put(self, send: Callable[[Celery, str], None], object_id: str) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name="notifier", daemon=True)
                self._thread.start()
        self._calls.put((send, object_id))

    def _deliver(self) -> None:
        while (call := self._calls.get()) is not None:
            send, object_id = call
            try:
                send(self._celery, object_id)
            except Exception as error:  # noqa: BLE001 - any error of the broker's client: the row is stored, only the message is lost
                log.warning(
                    "the broker did not take a message; maintenance will send another",
                    object_id=object_id,
                    error=str(error),
                )
