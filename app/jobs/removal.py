"""Deletes jobs that have ended, with everything that they left and nothing else needs."""

import hashlib
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import Database, now
from app.errors import Conflict, InUse
from app.evidence.tables import Evidence
from app.files.tables import File
from app.files.usage import blob_in_use
from app.jobs.queue.checkpoints import users
from app.jobs.queue.queries import find_job, jobs_needing_file
from app.jobs.queue.tables import DeletedJob, Job
from app.models.tables import Model
from app.paging.tombstones import remove
from app.storage.blobs import Storage


def delete_job(db: Database, storage: Storage, project: str, job_id: str) -> None:
    """Deletes the job, its events, curves, log and evidence, its models and checkpoints, and its result files.

    Of the evidence a record stays: verdict, roots, and the digest of the attestation, so that a copy which somebody
    kept is still known as the one that this service signed. Files that the job was trained on stay. Raises Conflict
    while the job has not ended, and InUse while other models or jobs need one of its models or files.
    """
    with db.write() as session:
        job = find_job(session, project, job_id, lock=True)
        if not job.ended:
            message = f"{job_id} is {job.status}; cancel it first, or wait for its end"
            raise Conflict(message, code="job_not_ended", param="fine_tuning_job_id")

        models, files = _models(session, job), _files(session, job)
        if needed := sorted({*_users(session, job, models), *_trained_on(session, job, files)}):
            message = f"what {job_id} left is used by {', '.join(needed[:20])}"
            raise InUse(message, needed, code="job_in_use", param="fine_tuning_job_id")

        session.add(_record(session, job))
        blobs = {file.blob for file in files}.union(*(model.blobs for model in models))
        for row in (*models, *files):
            session.delete(row)
        remove(session, job)
        session.flush()
        unused = [blob for blob in sorted(blobs) if not blob_in_use(session, blob)]
    for blob in unused:
        storage.delete(blob)


def _models(session: Session, job: Job) -> list[Model]:
    """Models that the job made. A job that is being stored now may have locked one."""
    made = select(Model).where(Model.job_id == job.id, Model.project == job.project).order_by(Model.id)
    return list(session.scalars(made.with_for_update()))


def _files(session: Session, job: Job) -> list[File]:
    result = select(File).where(File.id.in_(job.result_files), File.project == job.project)
    return list(session.scalars(result.with_for_update()))


def _users(session: Session, job: Job, models: list[Model]) -> Iterator[str]:
    """Models and unfinished jobs of others that need one of the job's models."""
    own = {job.id, *(model.id for model in models)}
    for model in models:
        yield from (user for user in users(session, model) if user not in own)


def _trained_on(session: Session, job: Job, files: list[File]) -> Iterator[str]:
    for file in files:
        yield from jobs_needing_file(session, job.project, file.id)


def _record(session: Session, job: Job) -> DeletedJob:
    evidence = session.get(Evidence, job.id)
    record = DeletedJob(id=job.id, project=job.project, created_at=job.created_at, deleted_at=now(session))
    if evidence is not None:
        record.verdict = evidence.verdict
        record.base_root, record.result_root = evidence.base_root, evidence.result_root
        record.attestation_sha256 = hashlib.sha256(evidence.envelope).hexdigest() if evidence.envelope else None
    return record
