"""Rows of jobs and of what they leave, and a worker's part in a job's life without the training."""

import json
from datetime import UTC, datetime
from typing import Any

from app.db import Database, new_id
from app.evidence.format.envelope import seal
from app.evidence.format.keys import generate
from app.evidence.format.statement import Predicate, build
from app.evidence.tables import Evidence, Parameter
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Lease, Outcome
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.models.tables import Model
from tests.app.conftest import AFFINE


def new_job(**fields: Any) -> Job:
    values: dict[str, Any] = {
        "id": new_id("ftjob"),
        "project": "default",
        "status": "queued",
        "model": "torch:affine",
        "model_spec": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}},
        "task": "tabular-regression",
        "training_file": "file-1",
        "data": {},
        "seed": 0,
        "hyperparameters": {},
        "freeze_policy": {"default": "train", "rules": []},
        "evidence_options": {},
    }
    return Job(**(values | fields))


def claim(db: Database) -> Lease:
    lease = lifecycle.claim(db, worker="test", seconds=60)
    assert lease is not None
    return lease


def finish(db: Database, lease: Lease, *, verdict: str = "verified", model: Model | None = None) -> None:
    evidence = Evidence(job_id=lease.job_id, attempt=1, verdict=verdict, frozen_tensors=2, frozen_bytes=16)
    evidence.base_root, evidence.frozen_root, evidence.checks = "ab" * 32, "cd" * 32, {"count": 3}
    evidence.violations = [] if verdict == "verified" else [{"name": "weight", "first_bad_step": 1}]
    evidence.envelope, evidence.keyid = envelope(lease.job_id), "k"
    parameters = [
        parameter(lease.job_id, 0, "bias", "trainable", True),
        parameter(lease.job_id, 1, "weight", "frozen", False),
    ]
    outcome = Outcome("succeeded", evidence=evidence, parameters=parameters, events=[NewEvent("done")], model=model)
    lifecycle.finish(db, lease, outcome)


def envelope(job_id: str) -> bytes:
    """A statement about an empty result, signed by a key that nobody trusts."""
    policy: dict[str, Any] = {"default": "train", "rules": []}
    predicate = Predicate(
        job_id=job_id,
        attempt=1,
        nonce=None,
        issued_at=datetime(2026, 6, 1, tzinfo=UTC),
        policy=policy,
        policy_digest="ab" * 32,
        base_files=(),
        result_files=(),
        rows=(),
        observed={"checks": 3, "first_step": 0, "last_step": 1, "fingerprint": None},
    )
    return json.dumps(seal(build(predicate), [generate()])).encode()


def result(job_id: str) -> Model:
    """What such a job leaves: one small file, stored as a whole."""
    model = Model(id=f"ft:affine:default::{job_id}", project="default", owned_by="default", kind="fine_tuned")
    model.status, model.spec, model.job_id = "ready", AFFINE, job_id
    model.files = [{"name": "model.safetensors", "size": 16, "sha256": "ab" * 32, "blob": "ab" * 32}]
    return model


def parameter(job_id: str, position: int, name: str, role: str, changed: bool) -> Parameter:
    row = Parameter(job_id=job_id, position=position, name=name, kind="parameter", role=role, changed=changed)
    row.dtype, row.shape, row.elements, row.nbytes = "F32", [2], 2, 8
    row.stats = {"changed_elements": 2} if changed else None
    return row
