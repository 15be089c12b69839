"""Requests with an Idempotency-Key that this process is at: a second one under the same key is told to come again."""

import contextlib
import threading
from collections.abc import Iterator

from app.errors import PermafrostError


class InFlight(PermafrostError):
    """The SDK asks again after `Retry-After`, and gets the job that the first request makes."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_in_flight"


class UnderWay:
    """Across processes the database decides: the key is unique among a project's jobs, and the loser is replayed."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def alone(self, project: str, key: str | None) -> Iterator[None]:
        """Raises InFlight while another request of the project has this key."""
        if key is None:
            yield
            return
        mine = (project, key)
        with self._lock:
            if mine in self._keys:
                message = "a request with this Idempotency-Key is under way; ask again in a second"
                raise InFlight(message, headers={"retry-after": "1"})
            self._keys.add(mine)
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard(mine)
