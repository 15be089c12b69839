"""Every route, taken from the application itself: with every role, with another project's objects, and with no key."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.evidence.format.digest import sha256_file
from app.storage.blobs import Storage
from tests.app.conftest import AFFINE, rows
from tests.app.guarded import ROLES, Guarded, guard, one_of_everything, routes
from tests.conftest import Deployment

#: Which role each operation needs. A new route has to be entered here, by somebody who thought about it.
NEEDS = {
    "reader": {
        "listPaginatedFineTuningJobs", "retrieveFineTuningJob", "listFineTuningEvents", "listFineTuningJobCheckpoints",
        "listFineTuningJobLogs", "listExports",
        "listFineTuningJobMetrics", "retrieveEvidence", "downloadAttestation", "downloadModelSignature",
        "downloadJobReport", "downloadBillOfMaterials", "retrieveLog", "downloadLogCheckpoint", "downloadLogTile",
        "listParameters", "listSigningKeys", "previewFreezePolicy", "readFreezePolicySchema", "listFiles",
        "retrieveFile", "downloadFile", "retrieveUpload", "listModels", "listModelTensors", "compareModels",
        "downloadModelFile", "retrieveModel", "listWebhookEventTypes", "dashboard", "job_page",
        "listFineTuningSweeps", "retrieveFineTuningSweep", "listFineTuningSweepJobs", "sweeps_page", "sweep_page",
        "job_changes", "dashboard_changes", "models_page", "model_page", "compare_page", "curves_page",
    },
    "writer": {
        "createFineTuningJob", "cancelFineTuningJob", "pauseFineTuningJob", "resumeFineTuningJob", "createFile",
        "deleteFile", "deleteModel", "createFineTuningSweep", "cancelFineTuningSweep", "deleteFineTuningSweep",
        "deleteFineTuningJob", "createUpload", "addUploadPart", "completeUpload", "cancelUpload",
        "new_job_page", "createJobByForm", "createFileByForm", "cancelJobByForm", "pauseJobByForm", "resumeJobByForm",
        "deleteModelByForm", "deleteJobByForm", "listSecrets", "retrieveSecret", "createExport",
    },
    "admin": {
        "registerModel", "registerModelByForm", "setSecret", "deleteSecret",
        "listAuditLogs", "createWebhookEndpoint", "listWebhookEndpoints", "retrieveWebhookEndpoint",
        "updateWebhookEndpoint", "deleteWebhookEndpoint", "rotateWebhookEndpointSecret", "testWebhookEndpoint",
        "listWebhookDeliveries", "retrieveWebhookDelivery", "replayWebhookDelivery",
    },
}  # fmt: skip
#: Open to everybody: they tell nothing of any project.
OPEN = {
    "live",
    "ready",
    "metrics",
    "documentation",
    "/openapi.json",
    "/static",
    "jobs_page",
    "login_page",
    "signIn",
    "beginSignIn",
    "finishSignIn",
    "chooseProject",
    "signOut",
    "guide",
    "overview",
    "/guide",
}

#: About no project's objects: the log has digests alone, and is the same for all.
SHARED = {"downloadLogTile"}

ENDPOINT = {"name": "a", "url": "https://hooks.example.org/", "event_types": ["fine_tuning.job.failed"]}
#: Bodies that are right in all but, perhaps, whose objects they name.
BODIES: dict[str, Any] = {
    "createFineTuningJob": {"model": AFFINE, "training_file": "file-none"},
    "createFineTuningSweep": {"job": {"model": AFFINE, "training_file": "file-none"}, "grid": {"seed": [1, 2]}},
    "previewFreezePolicy": {"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}},
    "createUpload": {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 1, "mime_type": "text/plain"},
    "completeUpload": {"part_ids": ["part-none"]},
    "registerModel": {"path": "none"},
    "compareModels": {"base": "none", "result": "none"},
    "createExport": {"destination": "s3://bucket/prefix"},
    "setSecret": {"name": "hub", "kind": "hub", "value": "hf_canary"},
    "createWebhookEndpoint": ENDPOINT,
    "updateWebhookEndpoint": {"name": "b"},
    "testWebhookEndpoint": {"event_type": "fine_tuning.job.failed"},
}


def operation(route: Any) -> str:
    return getattr(route, "operation_id", None) or (route.path if not hasattr(route, "dependant") else route.name)


@pytest.fixture
def guarded(deployment: Deployment) -> Guarded:
    return guard(deployment.settings)


@pytest.fixture
def client(guarded: Guarded) -> Iterator[TestClient]:
    with TestClient(guarded.application, base_url="http://testserver/v1/") as made:
        yield made


def ask(client: TestClient, method: str, path: str, ids: dict[str, str], *, name: str, headers: Any = None) -> Any:
    filled = re.sub(r":\w+}", "}", path).format(**ids)
    filled += "?seconds=0" if name == "dashboard_changes" else ""  # a stream without an end
    return client.request(
        method, f"http://testserver{filled}", json=BODIES.get(name), headers=headers, follow_redirects=False
    )


def test_every_route_has_a_role(guarded: Guarded):
    """The table above names every operation once, and nothing that is not there."""
    there = {operation(route) for *_, route in routes(guarded.application)}
    named = [name for names in NEEDS.values() for name in names] + sorted(OPEN)
    assert sorted(there) == sorted(named)


def test_no_route_without_a_key(guarded: Guarded, client: TestClient):
    """401 in the envelope for all that is not open, whether the object exists or not; open ones answer."""
    ids = one_of_everything(guarded, client)
    for method, path, route in routes(guarded.application):
        name = operation(route)
        answer = ask(client, method, path if name != "/static" else "/static/none", ids, name=name)
        if name in OPEN:
            assert answer.status_code != 401, name
        else:
            assert answer.status_code == 401, name
            assert answer.json()["error"]["type"] == "authentication_error", name


def test_every_route_with_every_role(guarded: Guarded, client: TestClient):
    """403 that names the needed role below it; at it and above, whatever the answer is, it is not about the role."""
    ids = dict.fromkeys(one_of_everything(guarded, client), "nothing")
    for method, path, route in routes(guarded.application):
        name = operation(route)
        for needed in (role for role, names in NEEDS.items() if name in names):
            for role in ROLES:
                answer = ask(client, method, path, ids, name=name, headers=guarded.headers("mine", role))
                enough = ROLES.index(role) >= ROLES.index(needed)
                assert (answer.status_code == 403) == (not enough), (name, role, answer.text)
                if not enough:
                    assert f"the role {needed}" in answer.json()["error"]["message"], name


def test_another_projects_objects_are_not_there(guarded: Guarded, client: TestClient):
    """Every route with an id: 404 for the other project's admin, and something else for the project's own.

    Then the id is one that never was: the two answers differ in nothing but the id, so that 404 is no oracle either.
    """
    ids = one_of_everything(guarded, client)
    seen = 0
    # Deletions last: the objects are needed until then.
    for method, path, route in sorted(routes(guarded.application), key=_deletions_last):
        name = operation(route)
        if "{" not in path or name in SHARED:
            continue
        seen += 1
        foreign = ask(client, method, path, ids, name=name, headers=guarded.headers("other"))
        assert foreign.status_code == 404, (name, foreign.text)
        nothing = {each: value if each == "name" else f"{value[:-4]}zzzz" for each, value in ids.items()}
        absent = ask(client, method, path, nothing, name=name, headers=guarded.headers("other"))
        assert absent.status_code == 404, (name, absent.text)
        assert _without(foreign.text, ids) == _without(absent.text, nothing), name
        own = ask(client, method, path, ids, name=name, headers=guarded.headers("mine"))
        assert own.status_code != 404, (name, own.text)
    assert seen >= 20


def _deletions_last(route: tuple[str, str, Any]) -> int:
    """Jobs after all others: their models go with them."""
    method, path, _ = route
    return (method == "DELETE") + (method == "DELETE" and path.endswith("{fine_tuning_job_id}"))


def _without(text: str, ids: dict[str, str]) -> str:
    for value in ids.values():
        text = text.replace(value, "…")
    return text


def test_another_projects_objects_cannot_be_named_in_a_body(guarded: Guarded, client: TestClient):
    """Files and models of a job, and of a preview: as if they were not there, and for their own project they are."""
    ids = one_of_everything(guarded, client)
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("fine_tuning/jobs", {"model": AFFINE, "training_file": ids["file_id"]}),
        ("fine_tuning/jobs", {"model": ids["model"], "training_file": ids["file_id"]}),
        ("fine_tuning/jobs", {"model": {**AFFINE, "weights": ids["file_id"]}, "training_file": ids["file_id"]}),
        ("freeze_policies/preview", {"model": ids["model"], "freeze_policy": {"freeze": ["weight"]}}),
    ]
    bodies.append(("fine_tuning/sweeps", {"job": bodies[0][1], "grid": {"seed": [1]}}))
    own_file = client.post(
        "files",
        headers=guarded.headers("other"),
        data={"purpose": "fine-tune"},
        files={"file": ("a.jsonl", b'{"x": [1.0, 2.0], "y": 1.0}\n')},
    ).json()["id"]
    for path, body in bodies[1:3]:
        foreign = client.post(path, json=body | {"training_file": own_file}, headers=guarded.headers("other"))
        assert foreign.status_code in (400, 404) and foreign.json()["error"]["param"].startswith("model"), foreign.text
    for path, body in bodies:
        foreign = client.post(path, json=body, headers=guarded.headers("other"))
        assert foreign.status_code in (400, 404), foreign.text
        assert foreign.json()["error"]["code"] in {"not_found", "model_not_found"}, foreign.text
        own = client.post(path, json=body, headers=guarded.headers("mine"))
        assert own.json().get("error", {}).get("code") not in {"not_found", "model_not_found"}, own.text


def test_lists_show_only_ones_own(guarded: Guarded, client: TestClient):
    """Every list without an id in its path is empty for the other project, and its cursors are no oracle."""
    ids = one_of_everything(guarded, client)
    cursors = {"files": "file_id", "fine_tuning/jobs": "fine_tuning_job_id", "webhook_endpoints": "webhook_endpoint_id"}
    cursors |= {"fine_tuning/sweeps": "sweep_id"}
    for path in (*cursors, "models", "audit_logs"):
        assert client.get(path, headers=guarded.headers("mine")).json()["data"], path
        theirs = client.get(path, headers=guarded.headers("other")).json()["data"]
        assert theirs == [], path
    for path, name in cursors.items():
        answer = client.get(path, params={"after": ids[name]}, headers=guarded.headers("other"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor"), path


def test_a_key_makes_objects_in_its_project_alone(guarded: Guarded, client: TestClient):
    """Neither a header nor a field of the request can choose another project."""
    headers = guarded.headers("other", "writer") | {"openai-project": "mine", "openai-organization": "mine"}
    form: dict[str, Any] = {
        "data": {"purpose": "fine-tune"},
        "files": {"file": ("a.jsonl", b'{"x": [1.0, 2.0], "y": 1.0}\n')},
    }
    made = client.post("files", headers=headers, **form).json()["id"]
    assert client.get(f"files/{made}", headers=guarded.headers("mine")).status_code == 404
    assert client.get(f"files/{made}", headers=guarded.headers("other", "reader")).status_code == 200


# ---- what one project's writes do to another's reads


def test_equal_bytes_of_another_project_disturb_no_reader(
    guarded: Guarded, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A job reads its staged file while another project uploads and deletes the same bytes: the job sees no change."""
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows(200))
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", content)}}
    mine = client.post("files", headers=guarded.headers("mine"), **form).json()
    [blob] = guarded.application.state.backends.storage.blobs()
    staged = guarded.application.state.backends.storage.fetch(blob.key, tmp_path / "staged")
    real = os.readv
    disturbed: list[Any] = []

    def disturb(*arguments: Any) -> int:
        if not disturbed:
            theirs = client.post("files", headers=guarded.headers("other"), **form).json()["id"]
            disturbed.append(client.delete(f"files/{theirs}", headers=guarded.headers("other")).status_code)
        return real(*arguments)

    monkeypatch.setattr("app.evidence.format.digest._READINGS", 1)
    monkeypatch.setattr(os, "readv", disturb)
    assert sha256_file(staged) == hashlib.sha256(content).hexdigest()
    assert disturbed == [200]
    assert client.get(f"files/{mine['id']}/content", headers=guarded.headers("mine")).content == content


def test_equal_bytes_that_another_project_deletes_wait_for_their_row(guarded: Guarded, client: TestClient):
    """Both have stored the same bytes; the other project commits its row and deletes it before the first commits."""
    storage: Storage = guarded.application.state.backends.storage
    with storage.writer() as writer:
        writer.write(b"a result that is being signed")
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}}
    form["files"] = {"file": ("a.jsonl", b"a result that is being signed")}
    theirs = client.post("files", headers=guarded.headers("other"), **form).json()["id"]
    assert client.delete(f"files/{theirs}", headers=guarded.headers("other")).json()["deleted"] is True
    assert storage.exists(writer.blob.key)


@pytest.mark.parametrize("body", [b"{", b'{"a": 1, "a": 2}', b"[]", b"\xff", b'{"unknown_field": 1}'])
def test_the_key_and_its_role_come_before_the_body(guarded: Guarded, client: TestClient, body: bytes):
    """A body that is wrong in any way is a 401 without a key and a 403 with too small a role, as a right one is."""
    smaller = {"writer": "reader", "admin": "writer"}
    for method, path, route in routes(guarded.application):
        needed = next((role for role, names in NEEDS.items() if operation(route) in names), None)
        if needed not in smaller:
            continue
        url = "http://testserver" + re.sub(r"{.*?}", "x", path) + "?no_such_parameter=1"
        headers = {"content-type": "application/json"}
        assert client.request(method, url, content=body, headers=headers).status_code == 401, path
        headers |= guarded.headers("mine", smaller[needed])
        assert client.request(method, url, content=body, headers=headers).status_code == 403, path
