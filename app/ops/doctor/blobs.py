"""Compares storage and database: orphaned, missing and damaged blobs, and unfinished uploads."""

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import NotFound
from app.files.tables import File
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import Job
from app.models.catalog import folders
from app.models.tables import Model
from app.ops.doctor.finding import Finding
from app.ops.doctor.losses import Losses
from app.ops.doctor.references import KEY, References, find_references
from app.settings import Settings
from app.storage.blobs import CHUNK, UNSETTLED_SECONDS, Storage, StoredFile

#: While no job runs, a row is written within this many seconds after its blob.
IDLE_SECONDS: Final = 5.0


@dataclass(slots=True)
class BlobAudit:
    """One comparison of a storage with the database. Files younger than `older_than` seconds may still get a row."""

    settings: Settings
    db: Database
    storage: Storage
    older_than: float | None = None
    deep: bool = False
    _aside: list[str] = field(default_factory=list)

    def findings(self) -> Iterator[Finding]:
        """Yield every disagreement. Files are listed before rows are read, so that a new row never lacks its file."""
        before = time.time()
        stored = {entry.key: entry for entry in self.storage.blobs()}
        with self.db.snapshot() as session:
            references = find_references(session)
            sizes = _sizes(session)
            age = self._age(session)
        yield from self._orphans(stored, references, before - age)
        yield from self._missing(stored, references)
        yield from self._damaged(stored, references, sizes)
        yield from Losses(self.db, self.storage).recovered(references, stored)
        yield from self._unfinished(time.time() - UNSETTLED_SECONDS if self.older_than is None else before - age)

    def _age(self, session: Session) -> float:
        if self.older_than is not None:
            return self.older_than
        busy = session.scalar(select(func.count()).select_from(Job).where(Job.status.in_(LEASED)))
        return UNSETTLED_SECONDS if busy else IDLE_SECONDS

    # ---- orphans

    def _orphans(self, stored: dict[str, StoredFile], references: References, settled: float) -> Iterator[Finding]:
        waiting = self.storage.deletions_waiting()
        for key, entry in sorted(stored.items()):
            if key in references:
                continue
            is_blob = re.fullmatch(KEY, key) is not None
            kind = "orphan_blob" if is_blob else "stray_file"
            message = f"{entry.size:,} bytes that no row refers to" if is_blob else "not a blob, but stored among blobs"
            if key in waiting:
                message += "; a worker's maintenance deletes it an hour after its last use"
                yield Finding("unused_blob", key, message, level="note")
            elif entry.modified > settled:
                message += "; its row may still be written: run again later, or with --older-than 0"
                yield Finding(kind, key, message, level="note")
            else:
                yield Finding(kind, key, message, "moved to quarantine", partial(self._set_aside, key))

    def _set_aside(self, key: str) -> str:
        self.storage.quarantine(key)
        self._aside.append(key)
        return f"moved to quarantine/{key}"

    def settle(self) -> list[str]:
        """Read the rows again after orphans were moved, and move back those that a new row refers to. Returns them."""
        if not self._aside:
            return []
        with self.db.snapshot() as session:
            references = find_references(session)
        late = [key for key in self._aside if key in references and not self.storage.exists(key)]
        for key in late:
            self.storage.bring_back(key)
        return late

    # ---- missing blobs

    def _missing(self, stored: dict[str, StoredFile], references: References) -> Iterator[Finding]:
        missing = sorted(references.keys() - stored.keys())
        if not missing:
            return
        aside = {entry.key.partition("/")[2] for entry in self.storage.quarantined()}
        with self.db.snapshot() as session:
            current = find_references(session)
        for key in missing:
            holders = sorted(current.get(key, set()))
            if not holders or self.storage.exists(key):
                continue  # its rows were deleted, or it was stored, after the lists were made
            message = f"missing from the storage, needed by {_some(holders)}"
            if key in aside and self._digest(f"quarantine/{key}") == key[-64:]:
                yield Finding("missing_blob", key, message, "moved back from quarantine", partial(self._back, key))
            elif source := self._source(key):
                remedy = f"stored again from {source}"
                yield Finding("missing_blob", key, message, remedy, partial(self._again, key, source))
            else:
                losses = Losses(self.db, self.storage)
                if losses.unmarked(holders):
                    remedy = "rows marked as lost, so that no job starts from them"
                    yield Finding("missing_blob", key, message, remedy, partial(losses.mark, holders))
                else:
                    yield Finding("missing_blob", key, message)

    def _back(self, key: str) -> str:
        self.storage.bring_back(key)
        return "moved back from quarantine"

    def _source(self, key: str) -> Path | None:
        """A file in the models folder with these bytes, from which base models are stored, or None."""
        with self.db.read() as session:
            rows = session.scalars(select(Model).where(Model.kind == "base"))
            names = {(row.spec.get("path"), file["name"]) for row in rows for file in row.files if file["blob"] == key}
        for folder in folders(self.settings):
            for _, name in (pair for pair in names if pair[0] == folder.name):
                path = folder / Path(name).name
                if path.is_file() and _digest_of(path) == key[-64:]:
                    return path
        return None

    def _again(self, key: str, source: Path) -> str:
        blob = self.storage.put(source)
        return f"stored again from {source}" if blob.key == key else f"not stored: {source} has changed"

    # ---- damaged blobs

    def _damaged(
        self, stored: dict[str, StoredFile], references: References, sizes: dict[str, int]
    ) -> Iterator[Finding]:
        for key in sorted(stored.keys() & references.keys()):
            size = sizes.get(key, stored[key].size)
            if stored[key].size != size:
                message = f"has {stored[key].size:,} bytes instead of {size:,}"
            elif self.deep and (digest := self._digest(key)) not in (key[-64:], None):
                message = f"its SHA-256 is {digest}"
            else:
                continue
            message += f"; needed by {_some(sorted(references[key]))}"
            remedy = "moved to quarantine, and stored again if the models folder has it"
            yield Finding("damaged_blob", key, message, remedy, partial(self._remove_damaged, key))

    def _remove_damaged(self, key: str) -> str:
        self.storage.quarantine(key)
        moved = f"moved to quarantine/{key}"
        source = self._source(key)
        return f"{moved}, and {self._again(key, source)}" if source else moved

    def _digest(self, key: str) -> str | None:
        try:
            with self.storage.open(key) as file:
                digest = hashlib.sha256()
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        except NotFound:
            return None
        return digest.hexdigest()

    # ---- unfinished uploads

    def _unfinished(self, settled: float) -> Iterator[Finding]:
        for entry in self.storage.unfinished():
            if entry.modified <= settled:
                message = f"{entry.size:,} bytes of an upload that was never finished"
                yield Finding("unfinished_upload", entry.key, message, "removed", partial(self._remove, entry.key))

    def _remove(self, key: str) -> str:
        self.storage.remove_file(key)
        return "removed"


def _sizes(session: Session) -> dict[str, int]:
    """Sizes of whole blobs in bytes by key, from the rows of files and models."""
    sizes = {row.blob: row.bytes for row in session.execute(select(File.blob, File.bytes)) if row.blob}
    for files in session.scalars(select(Model.files)):
        sizes |= {file["blob"]: file["size"] for file in files if file.get("blob")}
    return sizes


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
