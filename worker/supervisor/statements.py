"""Builds a job's statement: its predicate, and where the base came from."""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import select

from app.db import Database
from app.evidence.attest.verdict import JobVerdict
from app.evidence.format.statement import Predicate, build
from app.evidence.tables import Evidence
from app.freeze.policy import Policy
from app.jobs.queue.tables import Checkpoint, Job
from app.models.papers import without_papers
from app.models.tables import Model
from app.specs.models import TransformersSpec, adapter_start
from worker.supervisor.artifacts import Artifacts, file_ref


def statement(
    db: Database,
    job: Job,
    policy: Policy,
    base: Model,
    judged: JobVerdict,
    artifacts: Artifacts,
    *,
    origin: Mapping[str, str],
) -> bytes:
    """The payload to sign, about every tensor. `origin` is that of `origin_of`."""
    checks = artifacts.observed.get("checks") or {}
    predicate = Predicate(
        job_id=job.id,
        attempt=job.attempt,
        nonce=job.evidence_spec.nonce,
        issued_at=datetime.now(UTC),
        policy=policy.to_json(),
        policy_digest=policy.digest(),
        base_files=tuple(map(file_ref, without_papers(base.files))),
        result_files=tuple(artifacts.files),
        rows=judged.rows,
        observed={
            "checks": checks.get("count", 0),
            "first_step": checks.get("first_step", 0),
            "last_step": checks.get("last_step", 0),
            "fingerprint": checks.get("scheme"),
        },
        violations=tuple(each["name"] for each in judged.violations),
        result_kind=artifacts.result.kind,
        metadata=artifacts.result.metadata,
        previous=_previous(db, base),
        origin=origin,
    )
    return build(predicate)


def origin_of(db: Database, job: Job, base: Model) -> dict[str, str]:
    """Where the base, and an adapter that was trained on, came from."""
    return _origin(db, base) | _adapter_origin(job)


def _previous(db: Database, base: Model) -> str | None:
    """The SHA-256 of the statement about the base, where a job of ours made it."""
    if base.kind != "fine_tuned" or base.job_id is None:
        return None
    with db.read() as session:
        envelope = session.scalar(select(Evidence.envelope).where(Evidence.job_id == base.job_id))
    return hashlib.sha256(base64.b64decode(json.loads(envelope)["payload"])).hexdigest() if envelope else None


def _origin(db: Database, base: Model) -> dict[str, str]:
    """Where the base came from."""
    origin = {"model": base.id, "kind": base.kind}
    spec = base.model_spec
    if isinstance(spec, TransformersSpec) and spec.of_hub and base.kind == "base":
        origin |= {"repository": spec.path, "revision": spec.revision or "main"}
    if base.job_id:
        origin["job"] = base.job_id
    if base.kind == "checkpoint":
        with db.read() as session:
            step = session.scalar(select(Checkpoint.step).where(Checkpoint.model == base.id))
        origin |= {"step": str(step)} if step is not None else {}
    return origin


def _adapter_origin(job: Job) -> dict[str, str]:
    """The adapter that was trained on: where the first values of this one came from."""
    start = adapter_start(job.spec)
    return {"adapter": start} if start else {}
