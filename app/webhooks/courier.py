"""Sends what is due: one thread that claims, a few that post. Runs in every worker process, any number of them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from app.db import Database
from app.errors import PermafrostError
from app.settings import Settings
from app.webhooks import deliveries, signing
from app.webhooks.addresses import Reach
from app.webhooks.deliveries import DueDelivery
from app.webhooks.sender import PostResult, Sender
from app.webhooks.vault import Vault, secrets_of

log = structlog.get_logger("app.webhooks")

#: A slow receiver holds one of these up, and only its own deliveries.
_SENDERS: Final = 4
_FORGET_SECONDS: Final = 3_600.0


class Courier:
    """`start` and `close`, or `round` by hand."""

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
        """Cuts off what is under way; another courier, or the next one here, sends it again once its lease is over."""
        self._closed.set()
        self._sender.close()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> int:
        """Sends all that is due, one after the other, and returns how many there were."""
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
                except Exception as error:  # a database that is away for a while loses no delivery
                    log.warning("cannot look for webhooks", error=f"{type(error).__name__}: {error}")
                if due is None:
                    self._free.release()
                    self._closed.wait(self._pause)
                else:
                    pool.submit(self._send, due)

    def _send(self, due: DueDelivery) -> None:
        try:
            self._deliver(due)
        except Exception as error:  # not booked, so its lease runs out and it is sent again
            log.warning("a webhook was not booked", delivery=due.delivery.id, error=str(error))
        finally:
            self._free.release()

    def _take_due(self) -> DueDelivery | None:
        if not self._vault.ready():  # no endpoint was ever made, or this machine lacks the key: others may have it
            return None
        return deliveries.take_due(self._db)

    def _deliver(self, due: DueDelivery) -> None:
        try:
            answer = post(self._sender, self._vault, due)
        except PermafrostError as error:
            answer = PostResult(0.0, error=error.message)
        if self._closed.is_set() and not answer.ok:
            return
        booked = deliveries.book(self._db, due, answer)
        log.info(
            "webhook",
            delivery=due.delivery.id,
            endpoint=due.endpoint.id,
            attempt=due.attempt,
            status=answer.status_code,
            error=answer.error,
            booked=booked,
        )


def post(sender: Sender, vault: Vault, due: DueDelivery) -> PostResult:
    """Signed with the time of this attempt, so that receivers' clocks do not refuse a late one."""
    delivery, at = due.delivery, due.at
    keys = list(secrets_of(vault, due.endpoint, at))
    timestamp = int(at.timestamp())
    headers = signing.headers(delivery.payload, event_id=delivery.event_id, timestamp=timestamp, with_secrets=keys)
    return sender.post(due.endpoint.url, headers=headers, body=delivery.payload.encode())
