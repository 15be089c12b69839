"""/v1/uploads: a file in parts, for files that are larger than one request should be, or than a proxy lets pass."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from app.auth.caller import AsReader, AsWriter
from app.db import Database, new_id
from app.errors import InvalidRequest, PermafrostError
from app.files.forms import OVERHEAD, receive
from app.files.intake import discard
from app.http.dependencies import Blobs, Config, Db
from app.http.json_body import JsonRoute
from app.http.size_limit import allow_body, content_length
from app.openapi.prose import CONFLICT, ERRORS, PART_FORM
from app.storage.blobs import Blob, Storage
from app.uploads import queries
from app.uploads.assembly import assemble
from app.uploads.schemas import MAX_PART_BYTES, UploadComplete, UploadCreate, UploadObject, UploadPartObject
from app.uploads.tables import folder_of

router = APIRouter(prefix="/uploads", tags=["Uploads"], responses=ERRORS, route_class=JsonRoute)

UploadId = Annotated[str, Path(description="`upload-…`", examples=["upload-5f0c1d2e3a4b5c6d7e8f9a0b"])]


@router.post("", operation_id="createUpload", summary="Begin an upload in parts")
def create_upload(wanted: UploadCreate, caller: AsWriter, db: Db, settings: Config) -> UploadObject:
    """Add parts of up to 64 MiB each, then complete it within a day. The SDK's `upload_file_chunked` does all of it."""
    with db.write() as session:
        upload = queries.begin(session, caller.project, wanted, settings)
        session.flush()
        return queries.answer(session, upload)


@router.get("/{upload_id}", operation_id="retrieveUpload", summary="Read an upload in parts")
def retrieve_upload(upload_id: UploadId, caller: AsReader, db: Db) -> UploadObject:
    """Its state, and which parts have arrived: a client that was cut off goes on with those that have not."""
    with db.read() as session:
        return queries.answer(session, queries.find(session, caller.project, upload_id))


@router.post(
    "/{upload_id}/parts",
    operation_id="addUploadPart",
    summary="Add a part",
    openapi_extra=PART_FORM,
    responses=CONFLICT,
)
async def add_part(upload_id: UploadId, request: Request, caller: AsWriter, db: Db, storage: Blobs) -> UploadPartObject:
    """Streams one part of up to 64 MiB into the storage. Parts may arrive in any order, several at a time."""
    allow_body(request, MAX_PART_BYTES + OVERHEAD)
    asked = max(1, content_length(request.scope) - OVERHEAD)
    await run_in_threadpool(_refuse_early, db, caller.project, upload_id, asked)

    part_id = new_id("part")
    name = f"{folder_of(upload_id)}/{part_id}"
    content_type = request.headers.get("content-type", "")
    form = await receive(content_type, request.stream(), storage, limit=MAX_PART_BYTES, field="data", name=name)
    try:
        if form.fields:
            field = min(form.fields)
            raise InvalidRequest(f"unknown field {field!r}; a part has `data` alone", param=field, code="unknown_field")
        return await run_in_threadpool(_add_part, db, caller.project, upload_id, part_id, form.blob)
    except (PermafrostError, SQLAlchemyError):
        await run_in_threadpool(storage.remove_file, name)
        raise


@router.post(
    "/{upload_id}/complete", operation_id="completeUpload", summary="Make a file of the parts", responses=CONFLICT
)
def complete_upload(
    upload_id: UploadId, wanted: UploadComplete, caller: AsWriter, db: Db, storage: Blobs, settings: Config
) -> UploadObject:
    """Joins the parts in the given order. Repeating the request returns the same file."""
    with db.read() as session:
        upload = queries.find(session, caller.project, upload_id)
        if upload.status == "completed":
            return queries.answer(session, upload)
        parts = queries.chosen(session, queries.find_pending(session, caller.project, upload_id), wanted.part_ids)

    blob = assemble(storage, parts, md5=wanted.md5)
    answer = _complete(db, storage, caller.project, upload_id, blob, limit=settings.max_project_bytes)
    _clear(storage, upload_id)
    return answer


@router.post(
    "/{upload_id}/cancel", operation_id="cancelUpload", summary="Give an upload in parts up", responses=CONFLICT
)
def cancel_upload(upload_id: UploadId, caller: AsWriter, db: Db, storage: Blobs) -> UploadObject:
    """Nothing can be added to it any more, and its parts go."""
    with db.write() as session:
        answer = queries.answer(session, queries.cancel(session, caller.project, upload_id))
    _clear(storage, upload_id)
    return answer


def _refuse_early(db: Database, project: str, upload_id: str, asked: int) -> None:
    """Refuses a part before its body is read. The check that counts is made when the part is stored."""
    with db.read() as session:
        queries.check_room(session, queries.find_pending(session, project, upload_id), asked=asked)


def _add_part(db: Database, project: str, upload_id: str, part_id: str, stored: Blob) -> UploadPartObject:
    with db.write() as session:
        part = queries.add_part(session, project, upload_id, part_id, stored)
        return UploadPartObject.of(part)


def _complete(db: Database, storage: Storage, project: str, upload_id: str, blob: Blob, *, limit: int) -> UploadObject:
    try:
        with db.write() as session:
            upload = queries.complete(session, project, upload_id, blob, limit=limit)
            session.flush()
            return queries.answer(session, upload)
    except PermafrostError:
        discard(db, storage, blob.key)
        raise


def _clear(storage: Storage, upload_id: str) -> None:
    """Removes the bytes of the parts, if that is possible now. A worker's maintenance removes their rows, or both."""
    with suppress(PermafrostError, OSError):
        storage.remove_named(folder_of(upload_id))
