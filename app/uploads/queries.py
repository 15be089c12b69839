"""Looks uploads in parts up, and changes them: begin, add a part, complete, cancel."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db import Lock, locked, new_id, now
from app.errors import Conflict, InvalidRequest, NotFound, TooLarge
from app.files import queries as files
from app.files.forms import safe_name
from app.files.quota import check_quota
from app.files.tables import File
from app.settings import Settings
from app.storage.blobs import Blob
from app.uploads.schemas import MAX_PARTS, UploadCreate, UploadObject
from app.uploads.tables import Upload, UploadPart

#: An upload that has not been completed by then is given up.
LIFETIME: Final = timedelta(days=1)
#: Parts of an upload may be sent again, after a cut, until they add up to this many times the file.
TIMES_SENT: Final = 2


def find(session: Session, project: str, upload_id: str, *, lock: Lock | None = None) -> Upload:
    """The upload, if it is this project's. Raises NotFound, also for another project's."""
    statement = select(Upload).where(Upload.id == upload_id, Upload.project == project)
    row = session.scalar(locked(statement, lock))
    if row is None:
        raise NotFound(f"no upload {upload_id!r} in this project", param="upload_id")
    return row


def find_pending(session: Session, project: str, upload_id: str, *, lock: Lock | None = None) -> Upload:
    """The upload, if parts can still be added to it. Raises NotFound, and Conflict where it has ended."""
    row = find(session, project, upload_id, lock=lock)
    if row.status != "pending":
        raise Conflict(f"{upload_id} is {row.status}; begin another upload", param="upload_id", code="upload_ended")
    if row.expires_at <= now(session):
        message = f"{upload_id} expired at {row.expires_at:%Y-%m-%dT%H:%M:%SZ}; begin another upload"
        raise Conflict(message, param="upload_id", code="upload_ended")
    return row


def begin(session: Session, project: str, wanted: UploadCreate, settings: Settings) -> Upload:
    """Stores the row of an upload. Raises TooLarge, and QuotaSpent also for what pending uploads may still bring."""
    if wanted.bytes > settings.max_upload_bytes:
        message = f"bytes: a file may have at most {settings.max_upload_bytes:,} bytes"
        raise TooLarge(message, param="bytes", code="file_too_large")
    at = now(session)
    pending = _pending_bytes(session, project, at)
    check_quota(session, project, asked=wanted.bytes + pending, limit=settings.max_project_bytes)

    row = Upload(id=new_id("upload"), project=project, created_at=at, expires_at=at + LIFETIME, status="pending")
    row.filename, row.purpose, row.bytes = safe_name(wanted.filename), wanted.purpose, wanted.bytes
    row.file_seconds = wanted.expires_after.seconds if wanted.expires_after else None
    row.file_id, row.has_parts = None, True
    session.add(row)
    return row


def add_part(session: Session, project: str, upload_id: str, part_id: str, stored: Blob) -> UploadPart:
    """Stores the row of a part whose bytes are stored. Raises Conflict where the upload has ended meanwhile."""
    upload = find_pending(session, project, upload_id, lock="remove")
    check_room(session, upload, asked=stored.size)
    part = UploadPart(id=part_id, upload_id=upload.id, created_at=now(session), bytes=stored.size, sha256=stored.sha256)
    session.add(part)
    return part


def check_room(session: Session, upload: Upload, *, asked: int) -> None:
    """Raises InvalidRequest unless a part of this size can belong to the file."""
    count, size = session.execute(_size(upload.id)).one()
    if count >= MAX_PARTS:
        raise InvalidRequest(f"an upload has at most {MAX_PARTS:,} parts; send larger ones", code="too_many_parts")
    if asked > upload.bytes or size + asked > TIMES_SENT * upload.bytes:
        message = f"the file was announced with {upload.bytes:,} bytes, and its {count} parts have {size:,} already"
        raise InvalidRequest(message, param="data", code="too_many_parts")


def arrived(session: Session, upload: Upload) -> Sequence[UploadPart]:
    """The upload's parts, oldest first."""
    order = (UploadPart.created_at, UploadPart.id)
    return session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id).order_by(*order)).all()


def chosen(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts that make the file, in its order. Raises InvalidRequest for one that is unknown or there twice."""
    parts = {part.id: part for part in arrived(session, upload)}
    seen: set[str] = set()
    for at, part_id in enumerate(part_ids):
        if part_id not in parts:
            message = f"part_ids[{at}]: {upload.id} has no part {part_id!r}"
            raise InvalidRequest(message, param=f"part_ids[{at}]", code="unknown_part")
        if part_id in seen:
            raise InvalidRequest(f"part_ids[{at}]: {part_id} is there twice", param=f"part_ids[{at}]")
        seen.add(part_id)

    size = sum(parts[part_id].bytes for part_id in part_ids)
    if size != upload.bytes:
        message = (
            f"part_ids: these {len(part_ids)} parts have {size:,} bytes together, and {upload.bytes:,} were announced; "
            f"{len(parts)} parts have arrived"
        )
        raise InvalidRequest(message, param="part_ids", code="parts_do_not_add_up")
    return [parts[part_id] for part_id in part_ids]


def complete(session: Session, project: str, upload_id: str, blob: Blob, *, limit: int) -> Upload:
    """Makes the file, unless another request has done so meanwhile. Raises Conflict and QuotaSpent."""
    upload = find(session, project, upload_id, lock="remove")
    if upload.status == "completed":
        return upload
    upload = find_pending(session, project, upload_id)
    lifetime = timedelta(seconds=upload.file_seconds) if upload.file_seconds else None
    file = files.add(session, blob, upload.filename, upload.purpose, lifetime, project=project, limit=limit)
    upload.status, upload.file_id = "completed", file.id
    return upload


def cancel(session: Session, project: str, upload_id: str) -> Upload:
    """Gives a pending upload up; one that was cancelled stays so. Raises Conflict where it is completed."""
    upload = find(session, project, upload_id, lock="remove")
    if upload.status == "completed":
        message = f"{upload_id} is completed: its file is {upload.file_id}"
        raise Conflict(message, param="upload_id", code="upload_ended")
    upload.status = "cancelled"
    return upload


def answer(session: Session, upload: Upload) -> UploadObject:
    """The upload as the API describes it."""
    file = session.get(File, upload.file_id) if upload.file_id else None
    parts = arrived(session, upload) if upload.status == "pending" else ()
    return UploadObject.of(upload, at=now(session), parts=parts, file=file)


def _pending_bytes(session: Session, project: str, at: datetime) -> int:
    pending = (Upload.project == project, Upload.status == "pending", Upload.expires_at > at)
    return int(session.scalar(select(func.coalesce(func.sum(Upload.bytes), 0)).where(*pending)) or 0)


def _size(upload_id: str) -> Select[int, int]:
    of_upload = UploadPart.upload_id == upload_id
    return select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(of_upload)
