"""Sends due webhooks: one thread takes deliveries, a few others post them. Any number of workers may run one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from app.db import Database
from app.errors import PermafrostError
from app.settings import Settings
from app.vault import Vault
from app.webhooks import deliveries, signing
from app.webhooks.addresses import Reach
from app.webhooks.deliveries import DueDelivery
from app.webhooks.sender import PostResult, Sender

log = structlog.get_logger("app.webhooks")

#: Threads that post. A slow receiver occupies one of them and delays its own deliveries only.
_SENDERS: Final = 4
_FORGET_SECONDS: Final = 3_600.0


class Courier:
    """Sends due deliveries in the background between `start` and `close`, or in the caller's thread by `round`."""

    def __init__(self, db: Database, settings: Settings, *, sender: Sender | None = None) -> None:
        self._db = db
        self._vault = Vault(settings.webhook_key_path)
        self._sender = sender or Sender(Reach.parse(settings.webhook_allow))
        self._pause = settings.webhook_seconds
        self._closed = threading.Event()
        self._free = threading.Semaphore(_SENDERS)
        self._thread = threading.Thread(target=self._loop, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cut off running requests. Another courier sends their deliveries again once their leases are over."""
        self._closed.set()
        self._sender.close()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> int:
        """Send all due deliveries, one after the other. Returns their number."""
        count = 0
        while (due := self._take_due()) is not None:
            self._deliver(due)
            count += 1
        return count

    def _loop(self) -> None:
        forgot = float("-inf")
        with ThreadPoolExecutor(_SENDERS, thread_name_prefix="courier") as pool:
            while not self._closed.is_set():
                self._free.acquire()
                due = None
                try:
                    due = self._take_due()
                    if time.monotonic() - forgot > _FORGET_SECONDS:
                        forgot = time.monotonic()
                        deliveries.forget_old(self._db)
                except Exception as error:  # noqa: BLE001 - no delivery is lost while the database is away
                    log.warning("cannot look for due webhooks", error=f"{type(error).__name__}: {error}")
                if due is None:
                    self._free.release()
                    self._closed.wait(self._pause)
                else:
                    pool.submit(self._send, due)

    def _send(self, due: DueDelivery) -> None:
        try:
            self._deliver(due)
        except Exception as error:  # noqa: BLE001 - its lease runs out, and it is sent again
            log.warning("the result of a webhook was not stored", delivery=due.delivery.id, error=str(error))
        finally:
            self._free.release()

    def _take_due(self) -> DueDelivery | None:
        if not self._vault.ready():  # no endpoint exists, or other machines have the key
            return None
        return deliveries.take_due(self._db)

    def _deliver(self, due: DueDelivery) -> None:
        try:
            answer = post(self._sender, self._vault, due)
        except PermafrostError as error:
            answer = PostResult(0.0, error=error.message)
        if self._closed.is_set() and not answer.ok:
            return
        stored = deliveries.complete(self._db, due, answer)
        log.info(
            "webhook",
            delivery=due.delivery.id,
            endpoint=due.endpoint.id,
            attempt=due.attempt,
            status=answer.status_code,
            error=answer.error,
            booked=stored,
        )


def post(sender: Sender, vault: Vault, due: DueDelivery) -> PostResult:
    """Sign a delivery and post it. The signed time is that of this attempt, so that receivers accept a late one."""
    delivery, at = due.delivery, due.at
    keys = list(signing.secrets_of(vault, due.endpoint, at))
    timestamp = int(at.timestamp())
    headers = signing.headers(delivery.payload, event_id=delivery.event_id, timestamp=timestamp, with_secrets=keys)
    return sender.post(due.endpoint.url, headers=headers, body=delivery.payload.encode())
