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
from app.webhooks.deliveries import Claim
from app.webhooks.sender import Answer, Sender
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
        while (claimed := self._claim()) is not None:
            self._deliver(claimed)
            count += 1
        return count

    def _loop(self) -> None:
        forgot = float("-inf")
        with ThreadPoolExecutor(_SENDERS, thread_name_prefix="courier") as pool:
            while not self._closed.is_set():
                self._free.acquire()
                claimed = None
                try:
                    claimed = self._claim()
                    if time.monotonic() - forgot > _FORGET_SECONDS:
                        forgot = time.monotonic()
                        deliveries.forget_old(self._db)
                except Exception as error:  # a database that is away for a while loses no delivery
                    log.warning("cannot look for webhooks", error=f"{type(error).__name__}: {error}")
                if claimed is None:
                    self._free.release()
                    self._closed.wait(self._pause)
                else:
                    pool.submit(self._send, claimed)

    def _send(self, claimed: Claim) -> None:
        try:
            self._deliver(claimed)
        except Exception as error:  # not booked, so its lease runs out and it is sent again
            log.warning("a webhook was not booked", delivery=claimed.delivery.id, error=str(error))
        finally:
            self._free.release()

    def _claim(self) -> Claim | None:
        if not self._vault.ready():  # no endpoint was ever made, or this machine lacks the key: others may have it
            return None
        return deliveries.claim(self._db)

    def _deliver(self, claimed: Claim) -> None:
        try:
            answer = post(self._sender, self._vault, claimed)
        except PermafrostError as error:
            answer = Answer(0.0, error=error.message)
        if self._closed.is_set() and not answer.ok:
            return
        booked = deliveries.book(self._db, claimed, answer)
        log.info(
            "webhook",
            delivery=claimed.delivery.id,
            endpoint=claimed.endpoint.id,
            attempt=claimed.attempt,
            status=answer.status_code,
            error=answer.error,
            booked=booked,
        )


def post(sender: Sender, vault: Vault, claimed: Claim) -> Answer:
    """Signed with the time of this attempt, so that receivers' clocks do not refuse a late one."""
    delivery, at = claimed.delivery, claimed.at
    keys = list(secrets_of(vault, claimed.endpoint, at))
    timestamp = int(at.timestamp())
    headers = signing.headers(delivery.payload, event_id=delivery.event_id, timestamp=timestamp, with_secrets=keys)
    return sender.post(claimed.endpoint.url, headers=headers, body=delivery.payload.encode())
