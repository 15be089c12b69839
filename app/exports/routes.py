"""/v1/fine_tuning/jobs/{id}/exports: results that are sent to a hub, an object store or a tracking server."""

from typing import Annotated

from fastapi import APIRouter, Body, Path

from app.auth.caller import AsReader, AsWriter
from app.errors import Conflict
from app.exports import queue
from app.exports.destinations import check_address, parse
from app.exports.schemas import ExportCreate, ExportList, ExportObject
from app.http.dependencies import Config, Db
from app.http.json_body import JsonRoute
from app.jobs.queue.queries import find_job
from app.openapi.prose import CONFLICT, ERRORS
from app.webhooks.addresses import Reach

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"], responses=ERRORS, route_class=JsonRoute)

JobId = Annotated[str, Path(description="`ftjob-…`", examples=["ftjob-a5034f9d6e3ba6207e51e2dc"])]


@router.post(
    "/{fine_tuning_job_id}/exports", operation_id="createExport", summary="Send a job's result", responses=CONFLICT
)
def create_export(
    fine_tuning_job_id: JobId, wanted: Annotated[ExportCreate, Body()], caller: AsWriter, db: Db, settings: Config
) -> ExportObject:
    """A worker sends it, with the project's secret for the destination, and tries again while that is away.

    What is on its way to the same destination already is not sent twice.
    """
    destination = parse(wanted.destination, param="destination")
    check_address(destination, param="destination", reach=Reach.parse(settings.fetch_allow))
    with db.write() as session:
        job = find_job(session, caller.project, fine_tuning_job_id, lock=True)
        for row in queue.of_job(session, job.id):
            if row.destination == destination.url and row.status in ("waiting", "pending"):
                return ExportObject.of(row)
        if job.ended and job.status != "succeeded" and not (destination.tracks and job.status == "failed"):
            raise Conflict(f"{job.id} is {job.status} and has no result to send", code="no_result")
        status = "pending" if job.ended else "waiting"
        row = queue.add(session, project=job.project, job_id=job.id, destination=destination.url, status=status)
        return ExportObject.of(row)


@router.get("/{fine_tuning_job_id}/exports", operation_id="listExports", summary="List a job's exports")
def list_exports(fine_tuning_job_id: JobId, caller: AsReader, db: Db) -> ExportList:
    """Oldest first, each with its attempts."""
    with db.read() as session:
        job = find_job(session, caller.project, fine_tuning_job_id)
        return ExportList.page([ExportObject.of(row) for row in queue.of_job(session, job.id)], more=False)
