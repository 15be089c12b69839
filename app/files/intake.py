"""Takes an upload: quota before its first byte, blob while it arrives, row at its end. For the API and the pages."""

from contextlib import suppress

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.errors import PermafrostError
from app.files.forms import OVERHEAD, receive
from app.files.queries import store
from app.files.quota import check_quota
from app.files.schemas import FileObject
from app.files.usage import blob_in_use
from app.http.headers import is_retry
from app.http.size_limit import allow_body, content_length
from app.settings import Settings
from app.storage.blobs import Storage


async def take(request: Request, db: Database, storage: Storage, settings: Settings, *, project: str) -> FileObject:
    """Stores the file of a multipart request. Raises InvalidRequest, TooLarge, QuotaSpent, and then leaves nothing."""
    allow_body(request, settings.max_upload_bytes + OVERHEAD)
    content_type = request.headers.get("content-type", "")
    quota = settings.max_project_bytes
    await run_in_threadpool(_refuse_early, db, project, content_length(request.scope) - OVERHEAD, quota)
    upload = await receive(content_type, request.stream(), storage, limit=settings.max_upload_bytes)
    try:
        return await run_in_threadpool(store, db, upload, project=project, retried=is_retry(request), limit=quota)
    except (PermafrostError, SQLAlchemyError):
        # Without the database, nothing says whether the blob is needed: the doctor finds it later.
        with suppress(PermafrostError, SQLAlchemyError):
            await run_in_threadpool(discard, db, storage, upload.blob.key)
        raise


def _refuse_early(db: Database, project: str, asked: int, limit: int) -> None:
    """Raise QuotaSpent before the body is read. The check that counts is made when the file is stored."""
    with db.read() as session:
        check_quota(session, project, asked=max(1, asked), limit=limit)


def discard(db: Database, storage: Storage, blob: str) -> None:
    """Deletes a blob that was just stored, unless a row uses it."""
    with db.read() as session:
        used = blob_in_use(session, blob)
    if not used:
        storage.delete(blob)
