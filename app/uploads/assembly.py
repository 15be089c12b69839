"""Makes one blob of an upload's parts, in a pass over their bytes, and removes parts that nobody needs any more."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, or_, select

from app.db import Database, now
from app.errors import InvalidRequest, NotFound
from app.storage.blobs import Blob, Storage
from app.uploads.tables import Upload, UploadPart, folder_of

CHUNK: Final = 4 << 20
#: Parts of an expired upload stay for a request that began to complete it just before.
GRACE: Final = timedelta(hours=1)
#: Uploads that one round of maintenance clears at most.
ROUND: Final = 100


def assemble(storage: Storage, parts: Sequence[UploadPart], *, md5: str | None) -> Blob:
    """Stores the parts, one after the other, as one blob. Raises InvalidRequest where it is not what was announced."""
    check = hashlib.md5(usedforsecurity=False) if md5 else None
    with storage.writer() as writer:
        for part in parts:
            for chunk in _chunks(storage, part):
                writer.write(chunk)
                if check:
                    check.update(chunk)
        if check and md5 and check.hexdigest() != md5.lower():
            message = f"md5: the file has {check.hexdigest()}, and {md5.lower()} was announced"
            raise InvalidRequest(message, param="md5", code="checksum_mismatch")
    return writer.blob


def _chunks(storage: Storage, part: UploadPart) -> Iterator[bytes]:
    """The bytes of a part. Raises InvalidRequest where they are gone, or cut off by a power cut."""
    size = 0
    with suppress(NotFound), storage.open(f"{folder_of(part.upload_id)}/{part.id}") as source:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            yield chunk
    if size != part.bytes:
        message = f"the bytes of {part.id} are not in the storage any more; send this part again"
        raise InvalidRequest(message, param="part_ids", code="unknown_part")


def remove_leftovers(db: Database, storage: Storage) -> None:
    """Removes the parts of uploads that expired, and of those whose request ended before it could do so."""
    with db.read() as session:
        ended = or_(Upload.status != "pending", Upload.expires_at < now(session) - GRACE)
        due = session.scalars(select(Upload.id).where(Upload.has_parts, ended).limit(ROUND)).all()
    for upload_id in due:
        _remove_parts(db, storage, upload_id)


def _remove_parts(db: Database, storage: Storage, upload_id: str) -> None:
    """Removes the bytes of an upload's parts, and their rows. Repeating it changes nothing."""
    storage.remove_named(folder_of(upload_id))
    with db.write() as session:
        session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))
        upload = session.get(Upload, upload_id)
        if upload is not None:
            upload.has_parts = False
