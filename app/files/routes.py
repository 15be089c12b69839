"""/v1/files: upload, list, read, delete."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import select

from app.auth.caller import AsReader, AsWriter
from app.errors import Conflict, InUse
from app.files.intake import take
from app.files.queries import find_file
from app.files.quota import visible
from app.files.schemas import AnyPurpose, FileDeleted, FileList, FileObject
from app.files.tables import File
from app.files.usage import blob_in_use
from app.http.dependencies import Blobs, Config, Db
from app.http.downloads import blob_bytes, download
from app.jobs.queue.queries import jobs_needing_file
from app.openapi.prose import BINARY, CONFLICT, ERRORS, UPLOAD_FORM
from app.paging.keyset import AfterQuery, OrderQuery, keyset
from app.paging.tombstones import remove

router = APIRouter(prefix="/files", tags=["Files"], responses=ERRORS)

FileId = Annotated[str, Path(description="`file-…`", examples=["file-5f0c1d2e3a4b5c6d7e8f9a0b"])]


@router.post("", operation_id="createFile", summary="Upload a file", openapi_extra=UPLOAD_FORM)
async def create_file(request: Request, caller: AsWriter, db: Db, storage: Blobs, settings: Config) -> FileObject:
    """Streams the file into the storage while hashing it. Send the fields before the file, as the `openai` SDK does.

    Training files are JSON Lines (`.jsonl`), CSV or Parquet; creating a job checks them against its task.
    """
    return await take(request, db, storage, settings, project=caller.project)


@router.get("", operation_id="listFiles", summary="List files")
def list_files(
    caller: AsReader,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
    order: OrderQuery = "desc",
    purpose: Annotated[AnyPurpose | None, Query(description="Only files of this purpose.")] = None,
) -> FileList:
    """Newest first. Lists the files of your project only."""
    with db.read() as session:
        statement = visible(session, caller.project)
        if purpose is not None:
            statement = statement.where(File.purpose == purpose)
        including_expired = select(File).where(
            File.project == caller.project
        )  # a file may expire while its list is read
        rows, more = keyset(
            session,
            statement,
            File,
            within=including_expired,
            tombstones_of=caller.project,
            after=after,
            limit=limit,
            order=order,
        )
    data = [FileObject.of(row) for row in rows]
    return FileList.page(data, more=more)


@router.get("/{file_id}", operation_id="retrieveFile", summary="Read a file's metadata")
def retrieve_file(file_id: FileId, caller: AsReader, db: Db) -> FileObject:
    """Size, digest, purpose and, with `status: error`, what is wrong with the file."""
    with db.read() as session:
        return FileObject.of(find_file(session, caller.project, file_id))


@router.get(
    "/{file_id}/content",
    operation_id="downloadFile",
    summary="Download a file",
    response_class=StreamingResponse,
    responses={**BINARY, **CONFLICT},
)
def download_file(file_id: FileId, request: Request, caller: AsReader, db: Db, storage: Blobs) -> Response:
    """The bytes as they were uploaded. Supports `Range`."""
    with db.read() as session:
        row = find_file(session, caller.project, file_id)
    if row.pending:
        message = f"{file_id} has not been fetched yet: a worker does so for the first job that needs it"
        raise Conflict(message, param="file_id", code="file_not_fetched")
    return download(request, size=row.bytes, sha256=row.sha256, name=row.filename, read=blob_bytes(storage, row.blob))


@router.delete("/{file_id}", operation_id="deleteFile", summary="Delete a file", responses=CONFLICT)
def delete_file(file_id: FileId, caller: AsWriter, db: Db, storage: Blobs) -> FileDeleted:
    """Refused while a job that has not ended uses the file; `errors` in the answer lists those jobs."""
    with db.write() as session:
        row = find_file(session, caller.project, file_id, lock="remove")
        if users := jobs_needing_file(session, row.project, row.id):
            message = f"{file_id} is used by {len(users)} job(s) that have not ended: {', '.join(users[:20])}"
            raise InUse(message, users, code="file_in_use", param="file_id")
        remove(session, row)
        session.flush()
        last = not row.pending and not blob_in_use(session, row.blob)
    if last:
        storage.delete(row.blob)
    return FileDeleted(id=file_id)
