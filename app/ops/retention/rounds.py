"""A round of retention: what jobs left that ended so many days ago, as the settings have it, for a few seconds."""

import time
from collections import Counter
from datetime import timedelta
from typing import Final

from app.db import Database, now
from app.jobs.queue import checkpoints
from app.ops.retention.rows import EVENTS, LOGS, POINTS, AgingRows, delete_batch
from app.settings import Settings
from app.storage.blobs import Storage

#: Seconds that a round may take; the next one goes on.
SECONDS: Final = 5.0
#: Checkpoints that are dropped in one transaction.
CHECKPOINTS: Final = 50


def enforce(db: Database, storage: Storage, settings: Settings, *, seconds: float = SECONDS) -> Counter[str]:
    """Deletes what is older than the settings keep it, until nothing is left or the time is over; counts it by kind.

    Evidence, attestations, result files, entries of the transparency log and the audit log stay.
    """
    until = time.monotonic() + seconds
    deleted: Counter[str] = Counter()
    ages = ((EVENTS, settings.keep_events_days), (LOGS, settings.keep_logs_days), (POINTS, settings.keep_points_days))
    for kind, days in ages:
        if days:
            deleted[kind.name] = _delete_rows(db, kind, timedelta(days=days), until=until)
    if settings.keep_checkpoints_days:
        age = timedelta(days=settings.keep_checkpoints_days)
        deleted["checkpoints"] = _drop_checkpoints(db, storage, age, until=until)
    return +deleted


def _delete_rows(db: Database, kind: AgingRows, age: timedelta, *, until: float) -> int:
    """With pauses as long as the batches, in which others can write: SQLite has one writer at a time."""
    total = 0
    while (began := time.monotonic()) < until:
        with db.write() as session:
            deleted = delete_batch(session, kind, now(session) - age)
        if deleted is None:
            break
        total += deleted
        time.sleep(time.monotonic() - began)
    return total


def _drop_checkpoints(db: Database, storage: Storage, age: timedelta, *, until: float) -> int:
    total = 0
    while time.monotonic() < until:
        with db.write() as session:
            dropped, blobs = checkpoints.drop_of_ended(session, now(session) - age, age=age, most=CHECKPOINTS)
        if not dropped:
            break
        total += dropped
        for blob in blobs:
            storage.delete(blob)
    return total
