"""A blob is in use while a file or a model refers to it."""

from fastapi import FastAPI

from app.db import now
from app.files.forms import ReceivedForm
from app.files.queries import store
from app.files.tables import File
from app.files.usage import blob_in_use
from app.models.tables import Model
from app.storage.blobs import Blob

DIGEST = "a" * 64
KEY = f"sha256/aa/{DIGEST}"


def test_files_and_models_use_their_blobs(embedded: FastAPI) -> None:
    """A file by its column; a model by a whole file or by one tensor."""
    db = embedded.state.backends.database
    upload = ReceivedForm({"purpose": "fine-tune"}, "a.jsonl", Blob(key=KEY, sha256=DIGEST, size=1))
    with db.read() as session:
        assert not blob_in_use(session, KEY)

    file = store(db, upload, project="default", retried=False, limit=10)
    with db.write() as session:
        assert blob_in_use(session, KEY)
        session.delete(session.get_one(File, file.id))
        session.flush()
        assert not blob_in_use(session, KEY)

    for column in ("files", "tensors"):
        with db.write() as session:
            row = Model(id="m", owned_by="x", kind="base", status="ready", spec={}, created_at=now(session))
            setattr(row, column, [{"name": "weight", "blob": KEY}])
            session.add(row)
            session.flush()
            assert blob_in_use(session, KEY), column
            session.delete(row)
