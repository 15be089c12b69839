"""A file by reference in a worker: fetched once, pinned by its digest, read from the storage ever after."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db import new_id, now
from app.errors import DataError, ModelError, NotFound, SourceUnavailable
from app.evidence.format.digest import sha256_file
from app.files.tables import File
from app.secrets import queries
from app.secrets.schemas import SecretSet
from app.storage.blobs import Storage
from app.vault import Vault
from tests.app.storage.conftest import s3_server
from tests.conftest import Deployment
from tests.hub import COMMIT, Hub, serving
from tests.worker.supervisor.jobs import CSV, HEADER, job_of, submit
from worker.supervisor.references import FileFetcher
from worker.supervisor.runner import Runner
from worker.supervisor.sources.object_store import store

__all__ = ["s3_server"]

DATA = HEADER + CSV
TOKEN = "hf_" + "c0ffee" * 5


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub("acme/data", {"train.csv": DATA}, kind="datasets", gated=True, token=TOKEN)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield served


def pending(deployment: Deployment, url: str, *, project: str = "default") -> File:
    with deployment.db.write() as session:
        row = File(id=new_id("file"), project=project, created_at=now(session), filename="a", purpose="fine-tune")
        row.bytes, row.sha256, row.blob, row.status, row.source = 0, "", "", "uploaded", url
        session.add(row)
    return row


def fetch(deployment: Deployment, file: File, folder: Path, **settings: Any) -> File:
    changed = deployment.settings.model_copy(update=settings)
    fetcher = FileFetcher(changed, deployment.db, Storage(deployment.settings.storage), file.project)
    found = fetcher.fetch(file, folder=folder, param="training_file", stop=lambda: False)
    assert found is not None
    return found


def set_secret(deployment: Deployment, **fields: Any) -> None:
    with deployment.db.write() as session:
        queries.put(session, Vault(deployment.settings.webhook_key_path), "default", SecretSet(name="ours", **fields))


def test_data_of_a_hub_is_pinned_to_its_commit(deployment: Deployment, hub: Hub, tmp_path: Path) -> None:
    """With the project's token, which no other project's file is fetched with."""
    url = "hf://acme/data?split=train"
    with pytest.raises(DataError, match="permafrost secrets set") as refused:
        fetch(deployment, pending(deployment, url), tmp_path / "none")
    assert (refused.value.code, refused.value.param) == ("hub_data_gated", "training_file")
    set_secret(deployment, kind="hub", scope="acme", value=TOKEN)
    row = fetch(deployment, pending(deployment, url), tmp_path / "ours")
    assert (row.bytes, row.status, row.filename) == (len(DATA), "processed", "data-train.csv")
    assert row.source == f"hf://acme/data@{COMMIT}?split=train"
    with pytest.raises(DataError):
        fetch(deployment, pending(deployment, url, project="other"), tmp_path / "other")


def test_offline_workers_say_so(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would work."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="upload the file"):
        fetch(deployment, pending(deployment, "hf://acme/data?split=train"), tmp_path / "a")


def test_objects_of_a_store_by_the_projects_keys(deployment: Deployment, s3_server: str, tmp_path: Path) -> None:
    """The endpoint is in the secret, and an inner one is allowed by the operator alone."""
    keys = {"access_key_id": "mine", "secret_access_key": "canary", "region": "us-east-1", "endpoint_url": s3_server}
    assert httpx2.put(f"{s3_server}/reference-data").status_code == 200
    store(keys).pipe_file("reference-data/train.csv", DATA)
    set_secret(deployment, kind="s3", scope="reference-data", value=keys)
    url = "s3://reference-data/train.csv"
    with pytest.raises(DataError, match="PERMAFROST_FETCH_ALLOW") as refused:
        fetch(deployment, pending(deployment, url), tmp_path / "closed")
    assert refused.value.code == "source_address_refused"
    row = fetch(deployment, pending(deployment, url), tmp_path / "open", fetch_allow="127.0.0.0/8")
    assert (row.bytes, row.filename, row.source) == (len(DATA), "train.csv", url)
    with pytest.raises(DataError) as large:
        fetch(deployment, pending(deployment, url), tmp_path / "l", fetch_allow="127.0.0.0/8", max_upload_bytes=9)
    assert large.value.code == "file_too_large"


def test_sources_that_are_away_are_tried_again(deployment: Deployment, tmp_path: Path) -> None:
    """That is no fault of the job; what the address says after `?` is in no message."""
    row = pending(deployment, "http://127.0.0.1:9/train.csv?signature=canary")
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1") as away:
        fetch(deployment, row, tmp_path / "a", fetch_allow="127.0.0.0/8")
    assert "canary" not in away.value.message


def test_two_jobs_that_fetch_at_once_read_the_same_bytes(deployment: Deployment, hub: Hub, tmp_path: Path) -> None:
    """The first to store them decides, also where the source has changed meanwhile; a deleted file is named."""
    hub.gated = False
    row = pending(deployment, "hf://acme/data?split=train")
    first = fetch(deployment, row, tmp_path / "a")
    hub.files["train.csv"] = DATA * 2
    second = fetch(deployment, row, tmp_path / "b")  # with the row as it was before
    assert (second.sha256, second.blob) == (first.sha256, first.blob)
    with deployment.db.write() as session:
        session.delete(session.get_one(File, row.id))
    with pytest.raises(NotFound, match="it was deleted"):
        fetch(deployment, row, tmp_path / "c")


def test_job_on_a_reference_trains_on_what_was_fetched(deployment: Deployment, runner: Runner, hub: Hub) -> None:
    """The digest is in the row; another job on the file asks nobody, and nothing is left of the fetch."""
    hub.gated = False
    row = pending(deployment, "hf://acme/data@main?split=train")
    jobs = [submit(deployment, training_file=row.id, data={}) for _ in range(2)]
    runner.run_next()
    asked = len(hub.asked)
    runner.run_next()
    ended = [job_of(deployment.db, job) for job in jobs]
    assert [job.status for job in ended] == ["succeeded"] * 2, ended[0].error
    assert len(hub.asked) == asked
    with deployment.db.read() as session:
        file = session.get_one(File, row.id)
    stored = Path(str(runner.storage.root)) / file.blob
    assert sha256_file(stored) == file.sha256 and stored.read_bytes() == DATA
    assert not list(deployment.settings.work.glob("*/fetched-*"))
    shutil.rmtree(deployment.settings.work, ignore_errors=True)
