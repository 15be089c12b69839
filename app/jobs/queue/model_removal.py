"""Removes a model, and the blobs that nothing else needs."""

from app.db import Database
from app.errors import Forbidden, InUse
from app.files.usage import blob_in_use
from app.jobs.queue.checkpoints import clear, users
from app.models.catalog import find_model
from app.storage.blobs import Storage


def remove_model(db: Database, storage: Storage, project: str, model: str, *, may_remove_bases: bool) -> None:
    """Raises NotFound, Gone, Forbidden for a base model, and InUse while other models or jobs use it."""
    with db.write() as session:
        row = find_model(session, project, model, lock="remove")
        if row.project is None and not may_remove_bases:
            raise Forbidden(f"{model} is a base model, shared by all projects; deleting it needs the role admin")
        if used_by := list(users(session, row)):
            message = f"{model} is used by {', '.join(used_by[:20])}"
            raise InUse(message, used_by, code="model_in_use", param="model")
        blobs = row.blobs
        if row.kind == "checkpoint":
            clear(row, "it was deleted")
        else:
            session.delete(row)
        session.flush()
        unused = [blob for blob in blobs if not blob_in_use(session, blob)]
    for blob in unused:
        storage.delete(blob)
