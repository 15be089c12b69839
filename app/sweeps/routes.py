"""/v1/fine_tuning/sweeps: submit, list, read, cancel and delete sweeps of jobs."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from sqlalchemy import select

from app.auth.caller import AsReader, AsWriter
from app.db import Database, now
from app.errors import Conflict
from app.http.dependencies import Blobs, Config, Db, NotifierDep
from app.http.headers import is_retry
from app.http.json_body import JsonRoute
from app.jobs import views as job_views
from app.jobs.answers import JobList
from app.jobs.queue import lifecycle
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.idempotency import KeysInFlight
from app.jobs.queue.tables import Job
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.submission import protect_inputs
from app.openapi.load import load_examples
from app.openapi.prose import CONFLICT, ERRORS, ONE_REQUEST
from app.paging.keyset import AfterQuery, OrderQuery, keyset
from app.paging.tombstones import remove
from app.settings import Settings
from app.storage.blobs import Storage
from app.sweeps import views
from app.sweeps.queries import find_sweep, jobs_of, unfinished
from app.sweeps.schemas import SweepCreate, SweepDeleted, SweepList, SweepObject
from app.sweeps.submission import earlier_sweep, prepare, store
from app.sweeps.tables import Sweep

router = APIRouter(prefix="/fine_tuning/sweeps", tags=["Sweeps"], responses=ERRORS, route_class=JsonRoute)

SweepId = Annotated[str, Path(description="`ftsweep-…`", examples=["ftsweep-5f0c1d2e3a4b5c6d7e8f9a0b"])]


@router.post("", operation_id="createFineTuningSweep", summary="Submit a sweep", responses=ONE_REQUEST)
def create_sweep(
    wanted: Annotated[SweepCreate, Body(openapi_examples=load_examples("sweep_requests"))],
    request: Request,
    response: Response,
    caller: AsWriter,
    db: Db,
    storage: Blobs,
    settings: Config,
    notifier: NotifierDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="Repeat a request with the same key and get the same sweep."),
    ] = None,
) -> SweepObject:
    """Submits up to 256 jobs on one base and one data set, each an ordinary job with evidence of its own.

    Every job passes the checks of a single one. If one is refused, so is the sweep: `param` is the path of what was
    wrong in this request, and nothing is stored. Jobs that have no seed of their own share one.
    """
    keys: KeysInFlight = request.app.state.keys_in_flight
    with keys.reserve(caller.project, f"sweep {idempotency_key}" if idempotency_key else None):
        services = (db, storage, settings)
        sweep, repeated = _submit(services, caller.project, wanted, key=idempotency_key, retried=is_retry(request))

    if repeated:
        response.headers["idempotent-replayed"] = "true"
    else:
        for entry in sweep.variations:
            notifier.wake(entry["job_id"])
    response.headers["location"] = f"/v1/fine_tuning/sweeps/{sweep.id}"
    return _answer(db, caller.project, sweep.id)


@router.get("", operation_id="listFineTuningSweeps", summary="List sweeps")
def list_sweeps(
    caller: AsReader,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "desc",
) -> SweepList:
    """Newest first, without their rankings."""
    mine = select(Sweep).where(Sweep.project == caller.project)
    with db.read() as session:
        rows, more = keyset(session, mine, Sweep, tombstones_of=caller.project, after=after, limit=limit, order=order)
        return SweepList.page(views.summaries(session, rows), more=more)


@router.get("/{sweep_id}", operation_id="retrieveFineTuningSweep", summary="Read a sweep")
def retrieve_sweep(sweep_id: SweepId, caller: AsReader, db: Db) -> SweepObject:
    """Its jobs ranked by the metric as of their last evaluations; a running job's rank is its rank so far."""
    return _answer(db, caller.project, sweep_id)


@router.get("/{sweep_id}/jobs", operation_id="listFineTuningSweepJobs", summary="List a sweep's jobs")
def list_sweep_jobs(
    sweep_id: SweepId,
    caller: AsReader,
    db: Db,
    settings: Config,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "asc",
) -> JobList:
    """Whole jobs, in the order of the request."""
    with db.read() as session:
        statement = jobs_of(find_sweep(session, caller.project, sweep_id))
        rows, more = keyset(session, statement, Job, after=after, limit=limit, order=order)
        return JobList.page(job_views.job_objects(session, rows, ProjectShares.of(settings)), more=more)


@router.post("/{sweep_id}/cancel", operation_id="cancelFineTuningSweep", summary="Cancel a sweep", responses=CONFLICT)
def cancel_sweep(sweep_id: SweepId, caller: AsWriter, db: Db) -> SweepObject:
    """Cancels every job that has not ended; results of those that have stay. Idempotent."""
    with db.write() as session:
        sweep = find_sweep(session, caller.project, sweep_id, lock="remove")
        if sweep.cancelled_at is None:
            if not unfinished(session, sweep):
                raise Conflict(f"sweep {sweep_id} cannot be cancelled: all of its jobs have already ended")
            sweep.cancelled_at = now(session)
        lifecycle.cancel_jobs_of_sweep(session, caller.project, sweep_id)
    return _answer(db, caller.project, sweep_id)


@router.delete("/{sweep_id}", operation_id="deleteFineTuningSweep", summary="Delete a sweep", responses=CONFLICT)
def delete_sweep(sweep_id: SweepId, caller: AsWriter, db: Db) -> SweepDeleted:
    """Deletes the sweep's record once its jobs have ended. The jobs, their evidence and their models stay."""
    with db.write() as session:
        sweep = find_sweep(session, caller.project, sweep_id, lock="remove")
        if unfinished(session, sweep):
            raise Conflict(f"sweep {sweep_id} has jobs that have not ended; cancel it first")
        remove(session, sweep)
    return SweepDeleted(id=sweep_id)


# ---- what the endpoints share


def _submit(
    services: tuple[Database, Storage, Settings], project: str, wanted: SweepCreate, *, key: str | None, retried: bool
) -> tuple[Sweep, bool]:
    """The stored sweep, and whether an earlier request made it. Nothing is locked while the jobs are checked."""
    db, storage, settings = services
    with db.read() as session:
        made = earlier_sweep(session, project, wanted, key=key, retried=retried)
        if made is not None:
            return made, True
        context = SubmissionContext(session, storage, settings, project)
        sweep, jobs = prepare(context, wanted, idempotency_key=key)
    limit, aging = settings.max_active_jobs, settings.aging_seconds
    protect = partial(protect_inputs, new_files=context.new_files)
    return store(db, sweep, jobs, retried=retried, active_limit=limit, aging=aging, protect=protect)


def _answer(db: Database, project: str, sweep_id: str) -> SweepObject:
    with db.snapshot() as session:
        return views.read(session, project, sweep_id)
