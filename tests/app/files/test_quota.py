"""What a project may store."""

import pytest
from fastapi import FastAPI

from app.auth.quotas import QuotaSpent
from app.db import Database
from app.files.forms import ReceivedForm
from app.files.queries import store
from app.files.quota import check_quota, visible
from app.storage.blobs import Blob


def test_the_quota_counts_what_the_project_stores(embedded: FastAPI) -> None:
    """A second file that does not fit is refused; another project has its own quota."""
    database: Database = embedded.state.backends.database
    one, two = (
        ReceivedForm({"purpose": "fine-tune"}, "train.jsonl", Blob(f"sha256/{each}", each * 64, 10)) for each in "ab"
    )
    store(database, one, project="default", retried=False, limit=15)
    with pytest.raises(QuotaSpent):
        store(database, two, project="default", retried=False, limit=15)
    store(database, two, project="other", retried=False, limit=15)
    with database.read() as session:
        check_quota(session, "default", asked=5, limit=15)
        with pytest.raises(QuotaSpent):
            check_quota(session, "default", asked=6, limit=15)
        assert [file.project for file in session.scalars(visible(session, "other"))] == ["other"]
