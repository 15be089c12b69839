"""Submits a sweep: every job is checked as a single one is, then all of them are stored in one transaction, or none."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Final

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import Database, new_id, now
from app.errors import InvalidRequest
from app.jobs.queue import new_jobs
from app.jobs.queue.early_stopping import MedianRule
from app.jobs.queue.fair_share import AGING
from app.jobs.queue.idempotency import earlier
from app.jobs.queue.new_jobs import Protect
from app.jobs.queue.tables import Job
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.submission import CheckedRequest, examine, job_of, protect_inputs
from app.sweeps.metrics import FALLBACK, RankingMetric
from app.sweeps.schemas import SweepCreate
from app.sweeps.tables import Sweep
from app.sweeps.variations import Variation, expand, located, request_of

SPLIT_BY_SEED: Final = (
    "validation_fraction holds out other examples for another seed, so jobs with different seeds are compared on "
    "different examples; a validation_file is the same for all"
)


def fingerprint(request: SweepCreate) -> str:
    """SHA-256 of what a request says, the same however its JSON is written."""
    content = json.dumps(request.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def earlier_sweep(
    session: Session, project: str, request: SweepCreate, *, key: str | None, retried: bool
) -> Sweep | None:
    """The sweep that the same request has made already. Raises KeyReused when its key belongs to another request."""
    return earlier(session, Sweep, project, key=key, fingerprint=fingerprint(request), retried=retried)


def prepare(
    context: SubmissionContext, request: SweepCreate, *, idempotency_key: str | None
) -> tuple[Sweep, list[Job]]:
    """The rows of a new sweep and of its jobs, not yet stored. The first job that is refused refuses the sweep.

    Raises what the submission of a job raises, with `param` as a path in the sweep's request.
    """
    if request.job.destinations:
        message = "job.destinations: a sweep sends nothing; send the best result afterwards (`permafrost push`)"
        raise InvalidRequest(message, param="job.destinations", code="not_in_a_sweep")
    variations = expand(request)
    jobs, checked = _jobs(context, request, variations)
    metric = RankingMetric.chosen(request.metric, task=checked[0].task, validated=_validated(request, checked))
    rule = _stopping_rule(request, metric)

    sweep = Sweep(
        id=new_id("ftsweep"),
        project=context.project,
        model=jobs[0].model,
        task=jobs[0].task,
        training_file=jobs[0].training_file,
        validation_file=jobs[0].validation_file,
        meta=request.metadata,
        variations=[
            {"job_id": job.id, "values": variation.values} for job, variation in zip(jobs, variations, strict=True)
        ],
        metric=metric.to_json(),
        early_stopping=request.early_stopping.model_dump() if request.early_stopping else None,
        warnings=_warnings(request, metric, jobs),
        fingerprint=fingerprint(request),
        idempotency_key=idempotency_key,
    )
    for job in jobs:
        job.sweep_id, job.early_stopping = sweep.id, rule.to_json() if rule else None
        job.fingerprint = None  # a retry of a single job's request is not answered with a job of a sweep
    return sweep, jobs


def store(
    db: Database,
    sweep: Sweep,
    jobs: Sequence[Job],
    *,
    retried: bool,
    active_limit: int,
    aging: float = AGING,
    protect: Protect = protect_inputs,
) -> tuple[Sweep, bool]:
    """Stores sweep and jobs and returns the sweep, or the one that the same request made before (and True)."""

    def once() -> tuple[Sweep, bool]:
        with db.write() as session:
            key, printed = sweep.idempotency_key, sweep.fingerprint
            made = earlier(session, Sweep, sweep.project, key=key, fingerprint=printed, retried=retried)
            if made is not None:
                return made, True

            sweep.created_at = now(session)
            session.add(sweep)
            session.flush()
            new_jobs.store(session, jobs, active_limit=active_limit, protect=protect, aging=aging)
            return sweep, False

    try:
        return once()
    except IntegrityError:
        return once()  # two requests with one key at the same moment: the other has made the sweep, and is found now


def _jobs(
    context: SubmissionContext, request: SweepCreate, variations: Sequence[Variation]
) -> tuple[list[Job], list[CheckedRequest]]:
    """Jobs that have no seed of their own share one, so that they differ in nothing but what the request varies."""
    seed = request.job.seed if request.job.seed is not None else secrets.randbelow(2**31)
    jobs: list[Job] = []
    checked: list[CheckedRequest] = []
    for variation in variations:
        wanted = request_of(request.job, variation, seed=seed)
        with located(variation):
            checked.append(examine(context, wanted, sibling=checked[0] if checked else None))
            jobs.append(job_of(context, wanted, checked[-1], idempotency_key=None))
    return jobs, checked


def _validated(request: SweepCreate, checked: Sequence[CheckedRequest]) -> bool:
    """Whether the jobs have validation examples: all the same ones, as far as the request decides."""
    fractions = {one.hyperparameters.validation_fraction or 0 for one in checked}
    if len(fractions) > 1:
        message = "validation_fraction must be the same for all jobs: they are compared on these examples"
        param = "grid.hyperparameters.validation_fraction" if request.grid else "variations"
        raise InvalidRequest(message, param=param, code="not_comparable")
    return request.job.validation_file is not None or fractions != {0}


def _stopping_rule(request: SweepCreate, metric: RankingMetric) -> MedianRule | None:
    wanted = request.early_stopping
    if wanted is None:
        return None
    if metric.split != "valid":
        message = "early_stopping compares validation metrics: give a validation_file or a validation_fraction"
        raise InvalidRequest(message, param="early_stopping", code="no_validation")
    return MedianRule(metric.name, metric.goal, min_jobs=wanted.min_jobs, min_step=wanted.min_step)


def _warnings(request: SweepCreate, metric: RankingMetric, jobs: Sequence[Job]) -> list[str]:
    if metric.split == "train":
        return [FALLBACK]
    by_fraction = request.job.validation_file is None
    return [SPLIT_BY_SEED] if by_fraction and len({job.seed for job in jobs}) > 1 else []
