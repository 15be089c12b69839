"""Rows whose bytes are lost: marked, so that no job starts from them, and unmarked once the bytes are back."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import Database
from app.files.tables import File
from app.models.tables import Model
from app.ops.doctor.finding import Finding
from app.ops.doctor.references import References
from app.storage.blobs import Storage, StoredFile

LOST: Final = "its bytes are missing from the storage; put them back and run `permafrost doctor --repair`"


@dataclass(frozen=True, slots=True)
class Losses:
    """Marks rows of files and models as lost, and finds marked rows whose bytes are back."""

    db: Database
    storage: Storage

    def unmarked(self, holders: list[str]) -> bool:
        """Whether any of these rows can be marked as lost and is not yet."""
        with self.db.read() as session:
            return any(not _is_marked(row) for row in _rows(session, holders))

    def mark(self, holders: list[str]) -> str:
        with self.db.write() as session:
            rows = [row for row in _rows(session, holders) if not _is_marked(row)]
            for row in rows:
                if isinstance(row, File):
                    row.status, row.status_details = "error", LOST
                else:
                    row.status, row.error = "failed", LOST
            return f"marked as lost: {', '.join(row.id for row in rows)}"

    def recovered(self, references: References, stored: dict[str, StoredFile]) -> Iterator[Finding]:
        """Marked rows whose bytes are all stored again."""
        missing = {holder for key in references.keys() - stored.keys() for holder in references[key]}
        with self.db.read() as session:
            files = session.scalars(select(File).where(File.status_details == LOST)).all()
            models = session.scalars(select(Model).where(Model.error == LOST)).all()
            marked: list[File | Model] = [*files, *models]
        for row in marked:
            if f"{row.__tablename__} {row.id}" not in missing:
                message = "is marked as lost, but its bytes are stored"
                yield Finding("recovered_row", row.id, message, "unmarked", partial(self._unmark, type(row), row.id))

    def _unmark(self, kind: type[File] | type[Model], row_id: str) -> str:
        with self.db.write() as session:
            row: Any = session.get(kind, row_id)
            if isinstance(row, File):
                row.status, row.status_details = "processed", None
            elif row is not None:
                row.status, row.error = ("ready" if row.manifest is not None else "pending"), None
        return "unmarked"


def _rows(session: Session, holders: list[str]) -> Iterator[File | Model]:
    for holder in holders:
        name, _, row_id = holder.partition(" ")
        if name == "files" and (file := session.get(File, row_id)) is not None:
            yield file
        if name == "models" and (model := session.get(Model, row_id)) is not None:
            yield model


def _is_marked(row: File | Model) -> bool:
    return (row.status_details if isinstance(row, File) else row.error) == LOST
