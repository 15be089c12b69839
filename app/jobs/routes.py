"""/v1/fine_tuning/jobs: create, list, read, control and watch jobs."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy import select

from app.auth.caller import AsReader, AsWriter
from app.db import Database
from app.evidence.schemas import Verdict
from app.http.dependencies import Blobs, Config, Db, JobId, NotifierDep
from app.http.headers import etag_matches, is_retry, wait_seconds
from app.http.json_body import JsonRoute
from app.jobs import views
from app.jobs.answers import (
    CheckpointList,
    CheckpointObject,
    EventList,
    EventObject,
    JobDeleted,
    JobList,
    JobObject,
)
from app.jobs.listing import Filters, page
from app.jobs.live.polls import PollCache
from app.jobs.live.streaming import FeedReaderDep, WatcherDep
from app.jobs.live.watcher import EVENTS, sequence_of
from app.jobs.queue import lifecycle
from app.jobs.queue.checkpoints import available
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.idempotency import KeysInFlight
from app.jobs.queue.queries import find_job
from app.jobs.queue.states import Status
from app.jobs.queue.tables import Checkpoint, Event, Job
from app.jobs.removal import delete_job
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.dry_run import DryRun, dry_run
from app.jobs.requests.schemas import JobCreate, Tag
from app.jobs.requests.submit import JobServices, submit
from app.models.aliases import aliased
from app.openapi.load import load_examples
from app.openapi.prose import CONFLICT, ERRORS, EVENT_STREAM, METADATA_FILTER, ONE_REQUEST
from app.paging.keyset import AfterQuery, Order, OrderQuery, keyset
from app.settings import Settings

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"], responses=ERRORS, route_class=JsonRoute)


async def job_filters(
    request: Request,
    settings: Config,
    status: Annotated[list[Status] | None, Query(description="Only jobs in one of these states.")] = None,
    verdict: Annotated[list[Verdict] | None, Query(description="Only jobs whose evidence says one of these.")] = None,
    model: Annotated[str | None, Query(max_length=256, description="Only jobs on this model.")] = None,
    tag: Annotated[list[Tag] | None, Query(description="Only jobs with this tag; of several, with all.")] = None,
    created_after: Annotated[int | None, Query(ge=0, le=253402300799, description="Unix time.")] = None,
    created_before: Annotated[int | None, Query(ge=0, le=253402300799, description="Unix time.")] = None,
) -> Filters:
    """The filters that the query names; a model by the name that jobs have it under, or by an alias of it."""
    labels = [("", name) for name in tag or ()]
    model = model and (aliased(settings, model) or model)
    filters = Filters(
        status or (), verdict or (), model, created_after=created_after, created_before=created_before, labels=labels
    )
    return filters.read(request.query_params.multi_items())


FiltersDep = Annotated[Filters, Depends(job_filters)]

#: Longest time that a poll is kept open, whatever `Prefer: wait` says.
MAX_WAIT_SECONDS = 60


@router.post("", operation_id="createFineTuningJob", summary="Create a fine-tuning job", responses=ONE_REQUEST)
def create_job(
    spec: Annotated[JobCreate, Body(openapi_examples=load_examples("job_requests"))],
    request: Request,
    response: Response,
    caller: AsWriter,
    db: Db,
    storage: Blobs,
    settings: Config,
    notifier: NotifierDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="Repeat a request with the same key and get the same job."),
    ] = None,
) -> Annotated[JobObject | DryRun, Field(discriminator="object")]:
    """Checks all that can be known before training, stores the job and wakes a worker.

    The policy is resolved against the model's tensors at once where they are known, and otherwise as the first thing of
    the run; a file of up to 4 MiB is read to its end here. A retry by the `openai` SDK, which sends no key, is
    recognised by the SDK's retry header and gets the job that its first try made. With `dry_run: true` no job is made:
    the answer previews the plan, estimates time and memory, and says what could not be checked yet.
    """
    if spec.dry_run:
        with db.read() as session:
            return dry_run(SubmissionContext(session, storage, settings, caller.project), spec)

    keys: KeysInFlight = request.app.state.keys_in_flight
    services = JobServices(db, storage, settings, notifier)
    with keys.reserve(caller.project, idempotency_key):
        job, repeated = submit(services, caller.project, spec, key=idempotency_key, retried=is_retry(request))
    if repeated:
        response.headers["idempotent-replayed"] = "true"
    response.headers["location"] = f"/v1/fine_tuning/jobs/{job.id}"
    return _answer(db, settings, caller.project, job.id, response)


@router.get(
    "",
    operation_id="listPaginatedFineTuningJobs",
    summary="List fine-tuning jobs",
    openapi_extra={"parameters": [METADATA_FILTER]},
)
def list_jobs(
    caller: AsReader,
    db: Db,
    settings: Config,
    filters: FiltersDep,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "desc",
) -> JobList:
    """Newest first. `metadata[key]=value` keeps jobs with that entry, `metadata=null` those without any."""
    with db.read() as session:
        rows, more = page(session, caller.project, filters, after=after, limit=limit, order=order)
        data = views.job_objects(session, rows, ProjectShares.of(settings))
    return JobList.page(data, more=more)


@router.get(
    "/{fine_tuning_job_id}",
    operation_id="retrieveFineTuningJob",
    summary="Read a job",
    response_model=JobObject,
    responses={304: {"description": "Nothing has changed since `If-None-Match`."}},
)
async def retrieve_job(
    fine_tuning_job_id: JobId,
    request: Request,
    caller: AsReader,
    watcher: WatcherDep,
    if_none_match: Annotated[str | None, Header(description="The `ETag` of the last answer.")] = None,
    prefer: Annotated[
        str | None, Header(description="`wait=N` holds the answer until the job changes, N seconds at most.")
    ] = None,
) -> Response:
    """Progress, verdict and all. For polling: send `If-None-Match` with the last `ETag`, and `Prefer: wait=30`."""
    headers = {}
    timeout = request.headers.get("x-stainless-read-timeout", "")  # sent by the openai SDK
    if seconds := wait_seconds(prefer, read_timeout=timeout, most=MAX_WAIT_SECONDS):
        await watcher.changed(caller.project, fine_tuning_job_id, version=_version(if_none_match), seconds=seconds)
        headers["preference-applied"] = f"wait={seconds}"

    cache: PollCache = request.app.state.poll_cache
    job = await cache.read(caller.project, fine_tuning_job_id)
    headers |= {"etag": job.etag} if job.ended else {"etag": job.etag, "retry-after": "1"}
    if etag_matches(if_none_match, job.etag):
        return Response(status_code=304, headers=headers)
    return Response(job.body, headers=headers, media_type="application/json")


@router.post(
    "/{fine_tuning_job_id}/cancel", operation_id="cancelFineTuningJob", summary="Cancel a job", responses=CONFLICT
)
def cancel_job(fine_tuning_job_id: JobId, response: Response, caller: AsWriter, db: Db, settings: Config) -> JobObject:
    """Cancels at once, in any state that is not an end; the worker then stops the trainer. Idempotent."""
    lifecycle.cancel(db, caller.project, fine_tuning_job_id)
    return _answer(db, settings, caller.project, fine_tuning_job_id, response)


@router.post(
    "/{fine_tuning_job_id}/pause", operation_id="pauseFineTuningJob", summary="Pause a job", responses=CONFLICT
)
def pause_job(fine_tuning_job_id: JobId, response: Response, caller: AsWriter, db: Db, settings: Config) -> JobObject:
    """A running job saves its state first (`pausing`); a waiting one is `paused` at once."""
    lifecycle.pause(db, caller.project, fine_tuning_job_id)
    return _answer(db, settings, caller.project, fine_tuning_job_id, response)


@router.post(
    "/{fine_tuning_job_id}/resume",
    operation_id="resumeFineTuningJob",
    summary="Resume a paused job",
    responses=CONFLICT,
)
def resume_job(
    fine_tuning_job_id: JobId, response: Response, caller: AsWriter, db: Db, settings: Config, notifier: NotifierDep
) -> JobObject:
    """Goes on from the last saved state, and ends with the same bits as if it had never paused."""
    lifecycle.resume(db, caller.project, fine_tuning_job_id)
    notifier.wake(fine_tuning_job_id)
    return _answer(db, settings, caller.project, fine_tuning_job_id, response)


@router.delete(
    "/{fine_tuning_job_id}",
    operation_id="deleteFineTuningJob",
    summary="Delete a job",
    responses=CONFLICT,
)
def delete_fine_tuning_job(fine_tuning_job_id: JobId, caller: AsWriter, db: Db, storage: Blobs) -> JobDeleted:
    """Deletes a job that has ended with all that it left: models, checkpoints, result files, evidence, events, log.

    Refused while other models or jobs use what it left; `errors` in the answer lists those. The files that it was
    trained on stay. Later requests for it are answered with 410, which names the digest of its attestation.
    """
    delete_job(db, storage, caller.project, fine_tuning_job_id)
    return JobDeleted(id=fine_tuning_job_id)


@router.get(
    "/{fine_tuning_job_id}/events",
    operation_id="listFineTuningEvents",
    summary="List or stream a job's events",
    response_model=EventList,
    responses=EVENT_STREAM,
)
async def list_events(
    reader: FeedReaderDep,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    order: OrderQuery = "desc",
) -> Any:
    """Newest first as a list; oldest first as a stream, which ends with `data: [DONE]` once the job has ended."""
    project, job_id, seen = reader.caller.project, reader.fine_tuning_job_id, reader.behind(after)
    if not reader.stream:
        return await run_in_threadpool(_events, db, project, job_id, after=seen, limit=limit, order=order)
    start = await run_in_threadpool(_sequence, db, project, job_id, seen) if seen else 0
    return await reader.live(EVENTS, after=start)


@router.get(
    "/{fine_tuning_job_id}/checkpoints", operation_id="listFineTuningJobCheckpoints", summary="List a job's checkpoints"
)
def list_checkpoints(
    fine_tuning_job_id: JobId,
    caller: AsReader,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: OrderQuery = "desc",
) -> CheckpointList:
    """Newest first: those that are kept. Each is a model like any other, to download or to start a job from."""
    with db.read() as session:
        find_job(session, caller.project, fine_tuning_job_id)
        # The checkpoint of a cursor may have been dropped meanwhile: cursors are looked up among all.
        ever = select(Checkpoint).where(Checkpoint.job_id == fine_tuning_job_id)
        rows, more = keyset(
            session, available(fine_tuning_job_id), Checkpoint, within=ever, after=after, limit=limit, order=order
        )
    data = [CheckpointObject.of(row) for row in rows]
    return CheckpointList.page(data, more=more)


# ---- what the endpoints share


def _answer(db: Database, settings: Settings, project: str, job_id: str, response: Response) -> JobObject:
    """The job, with its ETag in the headers."""
    with db.read() as session:
        answer, job = views.read(session, project, job_id, ProjectShares.of(settings))
    response.headers.update(_freshness(answer, job))
    return answer


def _freshness(answer: JobObject, job: Job) -> dict[str, str]:
    tag = {"etag": views.etag(answer, job.version)}
    return tag if job.ended else {**tag, "retry-after": "1"}


def _events(db: Database, project: str, job_id: str, *, after: str | None, limit: int, order: Order) -> EventList:
    with db.read() as session:
        find_job(session, project, job_id)
        statement = select(Event).where(Event.job_id == job_id)
        if after is not None:
            seq = sequence_of(session, job_id, after)
            statement = statement.where(Event.seq < seq if order == "desc" else Event.seq > seq)
        statement = statement.order_by(Event.seq.desc() if order == "desc" else Event.seq)
        rows = list(session.scalars(statement.limit(limit + 1)))
    data = [EventObject.of(row) for row in rows[:limit]]
    return EventList.page(data, more=len(rows) > limit)


def _sequence(db: Database, project: str, job_id: str, event_id: str) -> int:
    with db.read() as session:
        find_job(session, project, job_id)
        return sequence_of(session, job_id, event_id)


def _version(tag: str | None) -> int | None:
    match = re.search(r'W/"(\d{1,18})\.', tag or "")
    return int(match[1]) if match else None
