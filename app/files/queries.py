"""Queries of uploaded files, and the storing of a finished upload as a row."""

import re
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.auth.quotas import lock_project
from app.db import Database, Lock, locked, new_id, now
from app.errors import InvalidRequest, NotFound
from app.files.forms import ReceivedForm
from app.files.quota import check_quota, visible
from app.files.schemas import PURPOSES, FileObject
from app.files.tables import File
from app.storage.blobs import Blob

#: An equal upload within this time counts as the same one when the client marks it as a retry.
_RETRY_WINDOW: Final = timedelta(minutes=10)
_LIFETIME: Final = range(3_600, 2_592_000 + 1)


def find_file(
    session: Session, project: str, file_id: str, *, param: str = "file_id", lock: Lock | None = None
) -> File:
    """The file. With `lock`, keepers and a remover of it wait for each other until their transactions end."""
    statement = visible(session, project).where(File.id == file_id)
    row = session.scalar(locked(statement, lock))
    if row is None:
        raise NotFound(f"no file {file_id!r} in this project", param=param)
    return row


def store(db: Database, upload: ReceivedForm, *, project: str, retried: bool, limit: int) -> FileObject:
    """Add the row of an upload whose bytes are stored already. `limit` is the project's quota in bytes."""
    purpose, lifetime = check_fields(upload.fields)
    with db.write() as session:
        at = now(session)
        if retried and (
            row := _same_upload(session, upload, project=project, purpose=purpose, since=at - _RETRY_WINDOW)
        ):
            return FileObject.of(row)
        row = add(session, upload.blob, upload.filename, purpose, lifetime, project=project, limit=limit)
    return FileObject.of(row)


def add(
    session: Session,
    blob: Blob,
    filename: str,
    purpose: str,
    lifetime: timedelta | None,
    *,
    project: str,
    limit: int,
) -> File:
    """Adds the row of a stored blob in the caller's transaction. Raises QuotaSpent."""
    lock_project(session, project)
    check_quota(session, project, asked=blob.size, limit=limit)
    at = now(session)
    row = File(id=new_id("file"), project=project, created_at=at, filename=filename, purpose=purpose)
    row.expires_at = at + lifetime if lifetime else None
    row.bytes, row.sha256, row.blob = blob.size, blob.sha256, blob.key
    row.status, row.status_details = "processed", None
    session.add(row)
    return row


def check_fields(fields: dict[str, str]) -> tuple[str, timedelta | None]:
    """Purpose and lifetime from the form's fields. Raises InvalidRequest."""
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown := sorted(set(fields) - known):
        message = f"unknown field {unknown[0]!r}; known fields are file, {', '.join(sorted(known))}"
        raise InvalidRequest(message, param=unknown[0], code="unknown_field")
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("purpose: this field is required", param="purpose", code="missing_field")
    if purpose not in PURPOSES:
        message = f"purpose: {purpose!r} is not one of {', '.join(PURPOSES)}"
        raise InvalidRequest(message, param="purpose", code="invalid_value")
    return purpose, _lifetime(fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]"))


def _lifetime(anchor: str | None, seconds: str | None) -> timedelta | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        message = "expires_after.anchor: must be 'created_at'"
        raise InvalidRequest(message, param="expires_after.anchor", code="invalid_value")
    if seconds is None or not re.fullmatch(r"[0-9]{1,9}", seconds) or int(seconds) not in _LIFETIME:
        message = f"expires_after.seconds: must be a whole number from {_LIFETIME[0]} to {_LIFETIME[-1]}"
        raise InvalidRequest(message, param="expires_after.seconds", code="invalid_value")
    return timedelta(seconds=int(seconds))


def _same_upload(session: Session, upload: ReceivedForm, *, project: str, purpose: str, since: datetime) -> File | None:
    same = (File.sha256 == upload.blob.sha256, File.filename == upload.filename, File.purpose == purpose)
    statement = visible(session, project).where(*same, File.created_at > since)
    return session.scalar(statement.order_by(File.created_at.desc()).limit(1))
