"""Models that go, and what they leave to others."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import now
from app.errors import Forbidden, InUse
from app.jobs.queue.model_removal import remove_model
from app.models.tables import Model
from tests.app.conftest import AFFINE


def test_a_model_goes_with_the_blobs_that_it_alone_needs(client: TestClient, embedded: FastAPI) -> None:
    """A base model only by an admin, and none while another is composed of it."""
    backends = embedded.state.backends
    db, storage = backends.database, backends.storage
    with storage.writer() as shared:
        shared.write(b"shared")
    with storage.writer() as own:
        own.write(b"own")
    with db.write() as session:
        for name, project, base, blobs in (("b", None, None, [shared]), ("r", "default", "b", [shared, own])):
            row = Model(id=name, project=project, base_id=base, owned_by="x", kind="base", status="ready", spec=AFFINE)
            row.created_at, row.tensors = now(session), []
            row.files = [{"name": "f", "size": 1, "sha256": "a", "blob": each.blob.key} for each in blobs]
            session.add(row)
    with pytest.raises(InUse, match="is used by r"):
        remove_model(db, storage, "default", "b", may_remove_bases=True)
    remove_model(db, storage, "default", "r", may_remove_bases=False)
    assert storage.exists(shared.blob.key) and not storage.exists(own.blob.key)
    with pytest.raises(Forbidden, match="role admin"):
        remove_model(db, storage, "default", "b", may_remove_bases=False)
    remove_model(db, storage, "default", "b", may_remove_bases=True)
    assert not storage.exists(shared.blob.key)
