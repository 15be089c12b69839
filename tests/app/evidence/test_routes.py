"""What the API says about a job's evidence: the stock tool's bundle, and the whole ring of keys."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database, now
from app.evidence.format.keys import load_or_create
from app.evidence.format.rotation import revoke, rotate
from app.evidence.tables import Evidence, Parameter
from app.http.dependencies import Backends
from tests.app.conftest import AFFINE, Create, Upload, rows, upload_to
from tests.app.jobs.jobs import claim, finish


def test_the_openssf_bundle_is_offered_where_there_is_one(
    client: TestClient, embedded: FastAPI, upload: Upload
) -> None:
    """Byte for byte as it was signed; without a P-256 key, or a result, 404 with the reason."""
    db: Database = embedded.state.backends.database
    waiting, without, with_bundle = (job(client, upload) for _ in range(3))
    assert says(client, waiting) == f"job {waiting} has no model.sig: it is queued; one is made when a job succeeds"
    end(db, without, None)
    assert "rotate --algorithm ecdsa-p256" in says(client, without)
    bundle = json.dumps({"mediaType": "x"}).encode()
    end(db, with_bundle, bundle)
    answer = client.get(f"fine_tuning/jobs/{with_bundle}/model_signature")
    assert (answer.status_code, answer.content) == (200, bundle)
    assert "model.sig" in answer.headers["content-disposition"]


def test_all_keys_are_listed_with_their_validity(client: TestClient, embedded: FastAPI) -> None:
    """The present one first, with the statement that introduced it; those before it with their ends."""
    backends: Backends = embedded.state.backends
    path = backends.settings.signing_key_path
    assert client.get("signing_keys").json()["data"] == []
    first = load_or_create(path)
    second, third = rotate(path, algorithm="ecdsa-p256"), rotate(path)
    revoke(path, first.keyid)
    found = client.get("signing_keys").json()["data"]
    assert [each["id"] for each in found] == [third.keyid, second.keyid, first.keyid]
    assert [each["algorithm"] for each in found] == ["ed25519", "ecdsa-p256", "ed25519"]
    assert [bool(each["introduced_by"]) for each in found] == [True, True, False]
    assert [bool(each["revoked_at"]) for each in found] == [False, False, True]
    assert [bool(each["not_after"]) for each in found] == [False, True, True]
    assert all(each["not_before"] for each in found)


@pytest.mark.parametrize("limit", [1, 2, 10])
@pytest.mark.parametrize(
    ("sort", "names"),
    [("name", "abcde"), ("changed_elements", "dabce"), ("relative_l2", "bdace"), ("changed_elements", "dab")],
)
def test_the_most_changed_tensors_come_first(
    api: TestClient, application: FastAPI, sort: str, names: str, limit: int
) -> None:
    """By elements or by norm, in pages of any size, with a filter or without; what has no figure comes last."""
    job_id = job(api, upload_to(api))
    figures = [(3, 0.1), (3, 0.5), (0, None), (7, 0.25), (None, None)]
    with application.state.backends.database.write() as session:
        for at, (elements, norm) in enumerate(figures):
            row = Parameter(job_id=job_id, position=at, name="abcde"[at], kind="parameter", role="trainable")
            row.dtype, row.shape, row.elements, row.nbytes, row.changed = "F32", [8], 8, 32, bool(elements)
            row.changed_elements, row.stats = elements, {"relative_l2": norm} if elements else None
            session.add(row)
    query = {"sort": sort, "limit": limit} | ({"changed": True} if len(names) == 3 else {})
    found, page = "", {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {"after": page["last_id"]} if page["last_id"] else {}
        page = api.get(f"fine_tuning/jobs/{job_id}/parameters", params={**query, **after}).json()  # type: ignore[dict-item]
        found += "".join(each["name"] for each in page["data"])
    assert found == names
    path = f"fine_tuning/jobs/{job_id}/parameters?sort=relative_l2&after=param-9"
    assert api.get(path).json()["error"]["code"] == "invalid_cursor"


def test_a_violation_says_what_wrote_or_why_that_is_not_known(api: TestClient, application: FastAPI) -> None:
    """The evidence of a job that has ended has the operation and its line, or the reason."""
    told = [
        {"name": "a", "last_good_step": 0, "first_bad_step": 1, "operation": "aten::add_ at train.py:4 in step"},
        {"name": "b", "last_good_step": 0, "first_bad_step": 1, "explanation": "a write from outside the dispatcher"},
    ]
    job_id = job(api, upload_to(api))
    end(application.state.backends.database, job_id, None, verdict="violated", violations=told)
    violations = api.get(f"fine_tuning/jobs/{job_id}/evidence").json()["violations"]
    assert [each["operation"] for each in violations] == ["aten::add_ at train.py:4 in step", None]
    assert [each["explanation"] for each in violations] == [None, "a write from outside the dispatcher"]


def job(client: TestClient, upload: Upload) -> str:
    body = {"model": AFFINE, "training_file": upload(rows())}
    return str(client.post("fine_tuning/jobs", json=body).json()["id"])


def end(
    db: Database, job_id: str, bundle: bytes | None, *, verdict: str = "verified", violations: Sequence[object] = ()
) -> None:
    with db.write() as session:
        row = Evidence(job_id=job_id, attempt=1, verdict=verdict, frozen_tensors=1, frozen_bytes=8)
        row.violations = list(violations)
        row.created_at, row.envelope, row.model_sig = now(session), b"{}", bundle
        session.add(row)


def says(client: TestClient, job_id: str) -> str:
    answer = client.get(f"fine_tuning/jobs/{job_id}/model_signature")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_model_signature")
    return str(answer.json()["error"]["message"])


def test_evidence_is_pending_then_there(api: TestClient, create: Create, db: Database) -> None:
    """Verdict in the job and by itself; the attestation is byte for byte what was signed."""
    job = create()
    path = f"fine_tuning/jobs/{job['id']}"
    assert api.get(f"{path}/evidence").json()["verdict"] == "pending"
    missing = api.get(f"{path}/attestation")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_attestation")
    finish(db, claim(db), verdict="violated")
    summary = api.get(path).json()["evidence"]
    assert (summary["verdict"], summary["frozen_tensors"]) == ("violated", 2)
    unknown = {"last_good_step": None, "operation": None, "explanation": None, "reason": None}
    assert summary["violations"] == [{"name": "weight", "first_bad_step": 1} | unknown]
    assert api.get(f"{path}/evidence").json()["checks"] == {"count": 3}
    attestation = api.get(f"{path}/attestation")
    assert attestation.json()["payloadType"] == "application/vnd.in-toto+json"
    assert attestation.headers["content-type"] == "application/vnd.dsse.envelope.v1+json"


def test_a_job_without_a_result_has_no_evidence(api: TestClient, create: Create) -> None:
    """Cancelled before anything could be proved."""
    job = create()
    api.post(f"fine_tuning/jobs/{job['id']}/cancel")
    evidence = api.get(f"fine_tuning/jobs/{job['id']}/evidence").json()
    assert evidence["verdict"] == "none"
    assert "cancelled" in evidence["reason"]
    assert api.get(f"fine_tuning/jobs/{job['id']}").json()["evidence"]["verdict"] == "none"


def test_parameters_are_filtered_and_paged(api: TestClient, create: Create, db: Database) -> None:
    """By role, by change, and one at a time."""
    job = create()
    finish(db, claim(db))
    path = f"fine_tuning/jobs/{job['id']}/parameters"

    def names(**query: Any) -> list[str]:
        return [row["name"] for row in api.get(path, params=query).json()["data"]]

    assert names() == ["bias", "weight"]
    assert names(role="frozen") == names(changed=False) == ["weight"]
    assert names(changed=True) == ["bias"]
    page = api.get(path, params={"limit": 1}).json()
    assert page["has_more"] is True
    assert names(after=page["last_id"]) == ["weight"]
    assert api.get(path, params={"after": "weight"}).json()["error"]["param"] == "after"
