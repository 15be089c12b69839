"""One request makes one job, however often it is sent: by its Idempotency-Key, or by the SDK's mark of a retry."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import now
from app.errors import PermafrostError
from app.jobs.queue.tables import Job

#: How long a request without a key counts as the same request when the SDK says that it is a retry.
RETRY_WINDOW: Final = timedelta(minutes=10)


class KeyReused(PermafrostError):
    """The key belongs to an earlier request with another body."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class InFlight(PermafrostError):
    """The first request with this key has not been answered yet; the SDK retries after `Retry-After`."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_in_flight"


class KeysInFlight:
    """Idempotency keys whose requests this process is answering now.

    Across processes the database decides: a key is unique among a project's jobs, and the later request is replayed.
    """

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reserve(self, project: str, key: str | None) -> Iterator[None]:
        """Raises InFlight while another request of the project has this key."""
        if key is None:
            yield
            return

        reserved = (project, key)
        with self._lock:
            if reserved in self._keys:
                message = "a request with this Idempotency-Key is under way; ask again in a second"
                raise InFlight(message, headers={"retry-after": "1"})
            self._keys.add(reserved)

        try:
            yield
        finally:
            with self._lock:
                self._keys.discard(reserved)


def earlier_job(
    session: Session, project: str, *, key: str | None, fingerprint: str | None, retried: bool
) -> Job | None:
    """The job that the same request has made already. Raises KeyReused when its key belongs to another request."""
    jobs = select(Job).where(Job.project == project)
    if key is not None:
        earlier = session.scalar(jobs.where(Job.idempotency_key == key))
        if earlier is not None and earlier.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key was used with another request body; use a new key for a new job")
        return earlier

    if not retried:
        return None
    recent = jobs.where(Job.fingerprint == fingerprint, Job.created_at > now(session) - RETRY_WINDOW)
    return session.scalar(recent.order_by(Job.created_at.desc()).limit(1))
