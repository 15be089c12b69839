"""Stores the job of a request and wakes a worker: the same for the API and for the pages' form."""

from dataclasses import dataclass
from functools import partial

import structlog

from app.broker.notifier import Notifier
from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.idempotency import earlier_job
from app.jobs.queue.tables import Job
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.submission import fingerprint, prepare, protect_inputs
from app.settings import Settings
from app.storage.blobs import Storage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobServices:
    """What a submission reads, writes and wakes."""

    database: Database
    storage: Storage
    settings: Settings
    notifier: Notifier


def submit(
    services: JobServices, project: str, spec: JobCreate, *, key: str | None, retried: bool = False
) -> tuple[Job, bool]:
    """The stored job, and whether an earlier request made it. Nothing is locked while the request is checked.

    Raises what `submission.examine` raises.
    """
    database, settings = services.database, services.settings
    with database.read() as session:
        job = earlier_job(session, project, key=key, fingerprint=fingerprint(spec), retried=retried)
        if job is not None:
            return job, True
        context = SubmissionContext(session, services.storage, settings, project)
        job = prepare(context, spec, idempotency_key=key)

    protect = partial(protect_inputs, new_files=context.new_files)
    limit, aging = settings.max_active_jobs, settings.aging_seconds
    job, repeated = lifecycle.submit(
        database,
        job,
        retried=retried,
        active_limit=limit,
        protect=protect,
        aging=aging,
        destinations=tuple(dict.fromkeys(spec.destinations or ())),
    )
    if not repeated:
        log.info("job submitted", job=job.id, project=project)
        services.notifier.wake(job.id)
    return job, repeated
