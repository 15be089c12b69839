"""Enters what this worker signs and registers into the transparency log.

A job whose entry cannot be signed into the log now is stored with the entry all the same; a worker signs it later.
"""

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.errors import PermafrostError
from app.evidence.format.keys import KeyFileError
from app.evidence.format.log_proof import Entry
from app.evidence.format.note import NoteError
from app.evidence.transparency.journal import Journal, load_key
from app.jobs.queue.event_log import NewEvent
from app.settings import Settings
from app.storage.blobs import Storage
from worker.supervisor.witnesses import ask_all, read_witnesses

log = structlog.get_logger(__name__)

#: What keeps the log from going on, and no job from ending.
FAILURES = (SQLAlchemyError, PermafrostError, OSError, KeyFileError, NoteError)


def open_journal(settings: Settings, db: Database, storage: Storage) -> Journal | None:
    """The log, if this worker can sign for it."""
    try:
        return Journal(db, storage, load_key(settings.log_key_path, origin=settings.log_origin))
    except (OSError, KeyFileError, NoteError) as error:
        log.warning("the transparency log has no key here", path=str(settings.log_key_path), reason=str(error))
        return None


def enter(journal: Journal | None, entry: Entry) -> list[NewEvent]:
    """Enter a statement before it is published. Returns an event where that has to wait."""
    if journal is None:
        return [_later("this worker has no key of it")]
    try:
        journal.enter(entry)
    except FAILURES as error:
        log.warning("the transparency log was not continued", reason=f"{type(error).__name__}: {error}")
        return [_later(type(error).__name__)]
    return []


def catch_up(journal: Journal | None, witnesses: str = "") -> None:
    """Sign the entries that wait, and have the checkpoint cosigned by the witnesses of the settings."""
    if journal is None:
        return
    try:
        journal.catch_up()
        ask_all(journal, read_witnesses(witnesses))
    except FAILURES as error:
        log.warning("the transparency log was not continued", reason=f"{type(error).__name__}: {error}")


def _later(reason: str) -> NewEvent:
    return NewEvent(f"The transparency log was not continued ({reason}); a worker tries again later", level="warn")
