"""Sends due exports: one thread takes them, a process of its own sends each. Jobs wait for none of it."""

import shutil
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from app.db import Database
from app.errors import InvalidRequest, NotFound, PermafrostError
from app.exports import queue
from app.exports.destinations import Destination, parse
from app.exports.queue import DueExport
from app.jobs.queue import event_log
from app.jobs.queue.event_log import NewEvent
from app.jsontypes import JsonDict
from app.secrets.lookup import secret_for
from app.settings import Settings
from app.storage.blobs import Storage
from app.vault import Vault
from worker.supervisor import hub
from worker.supervisor.exports.content import ExportContent
from worker.supervisor.process.fetcher import Fetcher

log = structlog.get_logger(__name__)

_MODULE: Final = "worker.supervisor.exports"
_PAUSE_SECONDS: Final = 1.0
#: Seconds between extensions of a lease.
_EXTEND_SECONDS: Final = 20.0


class Stopped(Exception):
    """This worker shuts down, or another exporter has taken over."""


class Exporter:
    """Sends due exports in the background between `start` and `close`, or in the caller's thread by `round`."""

    def __init__(self, db: Database, storage: Storage, settings: Settings) -> None:
        self._db, self._storage, self._settings = db, storage, settings
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="exporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Give up what is under way; another exporter goes on with it once the lease is over."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> int:
        """Do all due exports, one after the other. Returns their number."""
        count = 0
        while not self._closed.is_set() and (due := queue.take_due(self._db)) is not None:
            self._do(due)
            count += 1
        return count

    def _loop(self) -> None:
        while not self._closed.is_set():
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - its lease runs out, and it is done again
                log.warning("exports could not be looked for", error=f"{type(error).__name__}: {error}")
            self._closed.wait(_PAUSE_SECONDS)

    def _do(self, due: DueExport) -> None:
        receipt: JsonDict | None = None
        error, final = None, False
        try:
            receipt = self._send(due)
        except Stopped:
            return
        except (InvalidRequest, NotFound) as refused:
            error, final = refused.message, True
        except PermafrostError as away:
            error = away.message
        except OSError as broken:
            error = f"this worker could not prepare it: {broken.strerror or broken}"
        self._complete(due, receipt, error, final=final)

    def _send(self, due: DueExport) -> JsonDict:
        destination = parse(due.destination, param="destination")
        folder = self._settings.work / "exports" / due.id
        shutil.rmtree(folder, ignore_errors=True)
        try:
            ExportContent.of(self._db, due.job_id).write(folder, self._storage, destination=due.destination)
            vault = Vault(self._settings.webhook_key_path)
            secret = None
            if not destination.offline:
                secret = secret_for(self._db, vault, due.project, destination.kind, scopes=destination.scopes)
            offline = self._settings.offline_runs / due.project
            answer = self._fetcher(destination, due).run(
                [str(folder), self._settings.fetch_allow, secret.name if secret else "", str(offline)],
                answer=folder / "answer.json",
                secret=secret.fields if secret else None,
                stop=self._extending(due),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if answer is None:
            raise Stopped
        return answer

    def _fetcher(self, destination: Destination, due: DueExport) -> Fetcher:
        if destination.kind == "hub":
            hub.refuse_offline(destination.url, "push from a worker that may")
        environment = hub.hub_environment() if destination.kind == "hub" else {}
        home = self._settings.work / "exports" / due.id
        return Fetcher(_MODULE, home=home, param="destination", environment=environment)

    def _extending(self, due: DueExport) -> Callable[[], bool]:
        """Extends the lease now and then while the process works; true once it has to stop."""
        extended = time.monotonic()

        def stop() -> bool:
            nonlocal extended
            if self._closed.is_set():
                return True
            if time.monotonic() - extended > _EXTEND_SECONDS:
                extended = time.monotonic()
                return not queue.extend(self._db, due)
            return False

        return stop

    def _complete(self, due: DueExport, receipt: JsonDict | None, error: str | None, *, final: bool) -> None:
        """Stores how it ended, with an event of the job: of each end, and of the first attempt that failed."""
        with self._db.write() as session:
            row = queue.complete(session, due, receipt=receipt, error=error, final=final)
            if row is None:
                return
            if row.status == "delivered":
                event = NewEvent(f"Sent to {due.destination}", data={"export": row.id, "receipt": receipt})
            elif row.status == "failed":
                event = NewEvent(f"Not sent to {due.destination}: {error}", level="error", data={"export": row.id})
            else:
                event = NewEvent(f"Not sent to {due.destination} yet: {error}", level="warn", data={"export": row.id})
            if row.status != "pending" or due.attempt == 1:
                event_log.append(session, due.job_id, [event])
        log.info("export", export=due.id, job=due.job_id, attempt=due.attempt, status=row.status, error=error)
