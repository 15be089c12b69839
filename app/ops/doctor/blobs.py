"""Storage and database held against each other: what nobody needs, what is missing, what is damaged."""

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

#: Without a job under way, a row follows its bytes within moments.
IDLE_SECONDS: Final = 5.0


@dataclass(slots=True)
class BlobAudit:
    """One look at a storage. `older_than` is the age in seconds below which a file may still get its row."""

    settings: Settings
    db: Database
    storage: Storage
    older_than: float | None = None
    deep: bool = False
    _aside: list[str] = field(default_factory=list)

    def findings(self) -> Iterator[Finding]:
        """Files are listed before rows are read: a row that comes meanwhile finds its file in neither list missing."""
        before = time.time()
        there = {entry.key: entry for entry in self.storage.blobs()}
        with self.db.snapshot() as session:
            wanted = find_references(session)
            sizes = _sizes(session)
            age = self._age(session)
        yield from self._unclaimed(there, wanted, before - age)
        yield from self._missing(there, wanted)
        yield from self._damaged(there, wanted, sizes)
        yield from Losses(self.db, self.storage).recovered(wanted, there)
        yield from self._unfinished(time.time() - UNSETTLED_SECONDS if self.older_than is None else before - age)

    def _age(self, session: Session) -> float:
        if self.older_than is not None:
            return self.older_than
        busy = session.scalar(select(func.count()).select_from(Job).where(Job.status.in_(LEASED)))
        return UNSETTLED_SECONDS if busy else IDLE_SECONDS

    # ---- what nobody needs

    def _unclaimed(self, there: dict[str, StoredFile], wanted: References, settled: float) -> Iterator[Finding]:
        for key, entry in sorted(there.items()):
            if key in wanted:
                continue
            named = re.fullmatch(KEY, key) is not None
            kind = "orphan_blob" if named else "stray_file"
            what = f"{entry.size:,} bytes that no row names" if named else "no blob, and lies where blobs do"
            if entry.modified > settled:
                message = f"{what}, and so new that its row may still come; look again later, or use --older-than 0"
                yield Finding(kind, key, message, level="note")
            else:
                yield Finding(kind, key, what, "moved into quarantine", partial(self._set_aside, key))

    def _set_aside(self, key: str) -> str:
        self.storage.quarantine(key)
        self._aside.append(key)
        return f"moved to quarantine/{key}"

    def settle(self) -> list[str]:
        """A second look at the rows, with orphans out of sight: one that was just written gets its bytes back."""
        if not self._aside:
            return []
        with self.db.snapshot() as session:
            wanted = find_references(session)
        late = [key for key in self._aside if key in wanted and not self.storage.exists(key)]
        for key in late:
            self.storage.bring_back(key)
        return late

    # ---- what is missing

    def _missing(self, there: dict[str, StoredFile], wanted: References) -> Iterator[Finding]:
        missing = sorted(wanted.keys() - there.keys())
        if not missing:
            return
        aside = {entry.key.partition("/")[2] for entry in self.storage.quarantined()}
        with self.db.snapshot() as session:
            still = find_references(session)
        for key in missing:
            holders = sorted(still.get(key, set()))
            if not holders or self.storage.exists(key):
                continue  # deleted, or stored, since the lists were made
            message = f"not in the storage, and needed by {_some(holders)}"
            if key in aside and self._digest(f"quarantine/{key}") == key[-64:]:
                yield Finding("missing_blob", key, message, "brought back from quarantine", partial(self._back, key))
            elif source := self._source(key):
                remedy = f"stored again from {source}"
                yield Finding("missing_blob", key, message, remedy, partial(self._again, key, source))
            else:
                losses = Losses(self.db, self.storage)
                if losses.unmarked(holders):
                    remedy = "rows marked, so that nobody starts from them"
                    yield Finding("missing_blob", key, message, remedy, partial(losses.mark, holders))
                else:
                    yield Finding("missing_blob", key, message)

    def _back(self, key: str) -> str:
        self.storage.bring_back(key)
        return "brought back from quarantine"

    def _source(self, key: str) -> Path | None:
        """A file of the models folder with these bytes: bases are copied from there."""
        with self.db.read() as session:
            rows = session.scalars(select(Model).where(Model.kind == "base"))
            names = {(row.spec.get("path"), each["name"]) for row in rows for each in row.files if each["blob"] == key}
        for folder in folders(self.settings):
            for _, name in (each for each in names if each[0] == folder.name):
                path = folder / Path(name).name
                if path.is_file() and _digest_of(path) == key[-64:]:
                    return path
        return None

    def _again(self, key: str, source: Path) -> str:
        blob = self.storage.put(source)
        return f"stored again from {source}" if blob.key == key else f"{source} has changed meanwhile"

    # ---- what is damaged

    def _damaged(self, there: dict[str, StoredFile], wanted: References, sizes: dict[str, int]) -> Iterator[Finding]:
        for key in sorted(there.keys() & wanted.keys()):
            size = sizes.get(key, there[key].size)
            if there[key].size != size:
                message = f"has {there[key].size:,} bytes and should have {size:,}"
            elif self.deep and (digest := self._digest(key)) not in (key[-64:], None):
                message = f"its SHA-256 is {digest}"
            else:
                continue
            message += f"; needed by {_some(sorted(wanted[key]))}"
            remedy = "moved into quarantine, and stored again where the models folder has it"
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

    # ---- what writers left

    def _unfinished(self, settled: float) -> Iterator[Finding]:
        for entry in self.storage.unfinished():
            if entry.modified <= settled:
                message = f"{entry.size:,} bytes of a writer that was killed"
                yield Finding("unfinished_upload", entry.key, message, "removed", partial(self._remove, entry.key))

    def _remove(self, key: str) -> str:
        self.storage.remove_file(key)
        return "removed"


def _sizes(session: Session) -> dict[str, int]:
    """Sizes of whole blobs, as rows of files and models have them."""
    found = {row.blob: row.bytes for row in session.execute(select(File.blob, File.bytes))}
    for files in session.scalars(select(Model.files)):
        found |= {each["blob"]: each["size"] for each in files if each.get("blob")}
    return found


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
