"""One request makes one job, however often it is sent: by its Idempotency-Key, or by the SDK's mark of a retry."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import now
from app.errors import PermafrostError
from app.jobs.queue.tables import Job

Made = TypeVar("Made")

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
    return earlier(session, Job, project, key=key, fingerprint=fingerprint, retried=retried)


def earlier(
    session: Session, table: type[Made], project: str, *, key: str | None, fingerprint: str | None, retried: bool
) -> Made | None:
    """The row that the same request has made in a table with keys and fingerprints. Raises KeyReused."""
    columns: Any = table
    rows = select(table).where(columns.project == project)
    if key is not None:
        row: Any = session.scalar(rows.where(columns.idempotency_key == key))
        if row is not None and row.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key was used with another request body; use a new key for a new request")
        return row  # type: ignore[no-any-return]

    if not retried:
        return None
    recent = rows.where(columns.fingerprint == fingerprint, columns.created_at > now(session) - RETRY_WINDOW)
    return session.scalar(recent.order_by(columns.created_at.desc()).limit(1))
