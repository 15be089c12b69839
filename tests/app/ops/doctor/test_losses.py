"""Rows whose bytes are lost are marked until the bytes are back."""

import shutil
from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from app.http.dependencies import Backends
from app.models.tables import Model
from app.ops.doctor.finding import Finding
from app.ops.doctor.losses import LOST
from tests.app.conftest import rows, upload_to
from tests.app.ops.doctor.services import blob_of, put, row_of
from worker.supervisor import bases


def test_lost_bytes_mark_their_rows_until_they_are_back(
    api: TestClient, backends: Backends, look: Callable[..., list[Finding]]
) -> None:
    """A file without bytes says so through the API; the same bytes, put back, make it whole again."""
    file = upload_to(api)(b"precious", name="a.txt")
    key = blob_of(backends, file)
    backends.storage.remove_file(key)
    (finding,) = look()
    assert (finding.kind, finding.object) == ("missing_blob", key) and f"files {file}" in finding.message
    look(repair=True)
    answer = api.get(f"files/{file}").json()
    assert (answer["status"], answer["status_details"]) == ("error", LOST)
    (again,) = look()
    assert again.open and again.remedy is None, "nothing more can be done, and it is still wrong"
    put(backends.storage, b"precious")
    assert [each.kind for each in look(repair=True)] == ["recovered_row"]
    assert api.get(f"files/{file}").json()["status"] == "processed" and look() == []


def copy_of_affine(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    save_file({"weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


def test_no_job_starts_from_a_lost_model(
    backends: Backends, look: Callable[..., list[Finding]], api: TestClient
) -> None:
    """Its row says what is missing, and a request that names it is refused with that."""
    folder = backends.settings.models / "tiny"
    copy_of_affine(folder)
    model = bases.register(backends.database, backends.storage, folder, model_id="tiny")
    shutil.rmtree(folder)
    backends.storage.remove_file(next(each["blob"] for each in model.files if each["name"] == "model.safetensors"))
    look(repair=True)
    assert row_of(backends, Model, "tiny").error == LOST
    file = upload_to(api)(rows())
    refused = api.post("fine_tuning/jobs", json={"model": "tiny", "training_file": file})
    assert refused.status_code == 400 and "missing from the storage" in refused.json()["error"]["message"]
