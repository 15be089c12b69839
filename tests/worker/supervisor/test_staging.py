"""What an attempt starts from: files and bases that are there, changed, or gone."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.errors import ModelError, NotFound
from app.files.tables import File
from app.models import catalog
from app.models.hub_ids import hub_model_id, store_model_id
from app.models.tables import Model
from app.secrets import queries
from app.secrets.schemas import SecretSet
from app.specs.models import TransformersSpec
from app.storage.blobs import Storage
from app.vault import Vault, VaultClosed
from tests.app.jobs.jobs import new_job
from tests.app.storage.conftest import s3_server
from tests.conftest import Deployment
from tests.hub import COMMIT, Hub, serving
from tests.worker.supervisor.jobs import CSV, HEADER, job_of, submit, upload
from worker.protocol import Workspace
from worker.supervisor import attempt_folder
from worker.supervisor.runner import Runner
from worker.supervisor.sources.object_store import store
from worker.supervisor.staging import Staging

__all__ = ["s3_server"]


@pytest.mark.parametrize("column", ["training_file", "validation_file"])
def test_file_that_is_gone_is_named(deployment: Deployment, runner: Runner, column: str) -> None:
    """By the parameter that named it; another attempt would not find it either."""
    job_id = submit(deployment, validation_file=upload(deployment, HEADER + CSV, filename="held.csv"))
    with deployment.db.write() as session:
        session.delete(session.get_one(File, getattr(job_of(deployment.db, job_id), column)))
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.error is not None
    assert (job.status, job.attempt, job.error["param"]) == ("failed", 1, column)
    assert "it was deleted" in job.error["message"]


@pytest.mark.parametrize("column", ["training_file", "validation_file"])
def test_only_what_was_uploaded_is_trained_on(deployment: Deployment, runner: Runner, column: str) -> None:
    """Bytes that changed in the storage are refused by the parameter."""
    held = upload(deployment, HEADER + CSV + b"1,2,3,4,5,6,7,8,9,10,11\n", filename="held.csv")
    job_id = submit(deployment, validation_file=held)
    with deployment.db.read() as session:
        key = session.get_one(File, getattr(job_of(deployment.db, job_id), column)).blob
    blob = Path(str(runner.storage.root)) / key
    blob.chmod(0o644)
    blob.write_bytes(HEADER)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.error is not None
    assert (job.status, job.attempt) == ("failed", 1)
    assert (job.error["code"], job.error["param"]) == ("data_changed", column)


def test_gated_model_is_the_projects_own(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched with the project's token, it is there for that project and for no other; its next job asks nobody."""
    token = "hf_" + "c0ffee" * 5
    weights = header_only({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4)
    files = {"config.json": b"{}", "model.safetensors": weights}
    with serving(Hub("acme/tiny", files, gated=True, token=token)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        with pytest.raises(ModelError) as refused:
            staged(deployment, tmp_path / "none", project="mine")
        assert refused.value.code == "hub_model_gated"
        set_secret(deployment, token, project="mine")
        mine = staged(deployment, tmp_path / "mine", project="mine")
        asked = len(hub.asked)
        again = staged(deployment, tmp_path / "again", project="mine", revision=COMMIT)
        assert (again.id, len(hub.asked)) == (mine.id, asked)
        with pytest.raises(ModelError):
            staged(deployment, tmp_path / "other", project="other", revision=COMMIT)
    assert (mine.project, mine.stored_bytes) == ("mine", len(weights) + 2)
    assert mine.id == hub_model_id("acme/tiny", COMMIT, project="mine")
    with deployment.db.read() as session:
        chosen = TransformersSpec(path="acme/tiny", revision=COMMIT)
        settings = deployment.settings
        assert catalog.choose(session, settings, "mine", chosen).base_id == mine.id
        assert catalog.choose(session, settings, "other", chosen).base_id is None
        with pytest.raises(NotFound):
            catalog.find_model(session, "other", mine.id)


def test_worker_without_the_key_file_leaves_the_job_to_others(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret cannot be opened here: that is no fault of the job."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    set_secret(deployment, "hf_token", project="mine")
    deployment.settings.webhook_key_path.unlink()
    with pytest.raises(VaultClosed):
        staged(deployment, tmp_path / "mine", project="mine")


def test_model_of_a_store_is_pinned_by_its_files(deployment: Deployment, s3_server: str, tmp_path: Path) -> None:
    """Fetched once; by its digest it is found without the store, and other files than the pinned ones are refused."""
    keys = {"access_key_id": "mine", "secret_access_key": "x", "region": "us-east-1", "endpoint_url": s3_server}
    httpx2.put(f"{s3_server}/base-models")
    weights = header_only({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4)
    for name, data in (("config.json", b"{}"), ("model.safetensors", weights)):
        store(keys).pipe_file(f"base-models/tiny/{name}", data)
    wanted = SecretSet(name="bucket", kind="s3", scope="base-models", value=keys)
    with deployment.db.write() as session:
        queries.put(session, Vault(deployment.settings.webhook_key_path), "mine", wanted)

    prefix = "s3://base-models/tiny"
    model = staged(deployment, tmp_path / "a", project="mine", path=prefix, revision=None)
    revision = str(model.spec["revision"])
    assert model.id == store_model_id(prefix, revision, project="mine") and model.project == "mine"
    store(keys).pipe_file("base-models/tiny/config.json", b'{"a": 1}')
    assert staged(deployment, tmp_path / "b", project="mine", path=prefix, revision=revision).id == model.id
    assert staged(deployment, tmp_path / "c", project="mine", path=prefix, revision=None).id != model.id
    with pytest.raises(ModelError, match="other files than the pinned ones") as changed:
        staged(deployment, tmp_path / "d", project="mine", path=prefix, revision="0" * 64)
    assert (changed.value.code, changed.value.param) == ("base_changed", "model.revision")
    with pytest.raises(ModelError) as refused:
        staged(deployment, tmp_path / "e", project="mine", path=prefix, revision=None, allow="")
    assert refused.value.code == "source_address_refused"


def set_secret(deployment: Deployment, token: str, *, project: str) -> None:
    wanted = SecretSet(name="hub", kind="hub", scope="acme", value=token)
    with deployment.db.write() as session:
        queries.put(session, Vault(deployment.settings.webhook_key_path), project, wanted)


def staged(
    deployment: Deployment,
    folder: Path,
    *,
    project: str,
    path: str = "acme/tiny",
    revision: str | None = "main",
    allow: str = "127.0.0.0/8",
) -> Model:
    """The base that a job of the project starts from."""
    spec = TransformersSpec(path=path, revision=revision).to_json()
    job = new_job(project=project, model_spec=spec)
    workspace = Workspace(folder / "a1")
    attempt_folder.create(workspace)
    settings = deployment.settings.model_copy(update={"fetch_allow": allow})
    staging = Staging(settings, deployment.db, Storage(settings.storage), job, workspace)
    return staging.base(initialise=lambda: None, should_stop=lambda: False)


def header_only(tensors: dict[str, Any]) -> bytes:
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header
