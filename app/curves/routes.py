"""/v1/fine_tuning/jobs/{id}/metrics: a job's curves, as a list and live."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from app.curves.queries import POINTS, metrics
from app.db import Database
from app.http.dependencies import Db
from app.jobs.answers import MetricList
from app.jobs.live.streaming import FeedReaderDep, number
from app.jobs.queue.queries import find_job
from app.jsontypes import JsonDict
from app.openapi.prose import ERRORS, METRIC_STREAM

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"], responses=ERRORS)

After = Annotated[
    str | None,
    Query(
        max_length=9,
        pattern=r"^[0-9]+$",
        description="Number (`seq`) of the last point seen; only later points are returned.",
    ),
]


@router.get(
    "/{fine_tuning_job_id}/metrics",
    operation_id="listFineTuningJobMetrics",
    summary="Read or stream a job's curves",
    response_model=MetricList,
    responses=METRIC_STREAM,
)
async def list_metrics(
    reader: FeedReaderDep,
    db: Db,
    split: Annotated[str | None, Query(pattern="^(train|valid)$")] = None,
    from_step: Annotated[int, Query(ge=0, le=2**53)] = 0,
    to_step: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="A longer curve is thinned out evenly.")] = 1_000,
) -> Any:
    """Loss, learning rate, speed and other metrics by step. A stream sends every point as it is made, of every split
    and step; a step that a later attempt repeats is sent again, under a new number."""
    last_seen = number(reader.behind(after), what="the last point seen")
    if reader.stream:
        return await reader.live(POINTS, after=last_seen)

    options = {"split": split, "first": from_step, "last": to_step, "limit": limit, "after": last_seen}
    return await run_in_threadpool(_metrics, db, reader.caller.project, reader.fine_tuning_job_id, options)


def _metrics(db: Database, project: str, job_id: str, options: JsonDict) -> MetricList:
    with db.read() as session:
        find_job(session, project, job_id)
        return metrics(session, job_id, **options)
