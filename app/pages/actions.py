"""What a job's page can do to the job: its buttons are forms, so that they work without a script."""

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from app.auth.caller import AsWriter
from app.http.dependencies import Blobs, Db, NotifierDep
from app.jobs.queue import lifecycle
from app.jobs.removal import delete_job
from app.pages.own_pages import FROM_OWN_PAGE

router = APIRouter(include_in_schema=False, dependencies=[FROM_OWN_PAGE])


@router.post("/jobs/{job_id}/cancel", operation_id="cancelJobByForm")
def cancel(job_id: str, caller: AsWriter, db: Db) -> Response:
    lifecycle.cancel(db, caller.project, job_id)
    return _back(job_id)


@router.post("/jobs/{job_id}/pause", operation_id="pauseJobByForm")
def pause(job_id: str, caller: AsWriter, db: Db) -> Response:
    lifecycle.pause(db, caller.project, job_id)
    return _back(job_id)


@router.post("/jobs/{job_id}/resume", operation_id="resumeJobByForm")
def resume(job_id: str, caller: AsWriter, db: Db, notifier: NotifierDep) -> Response:
    lifecycle.resume(db, caller.project, job_id)
    notifier.wake(job_id)
    return _back(job_id)


@router.post("/jobs/{job_id}/delete", operation_id="deleteJobByForm")
def delete(job_id: str, caller: AsWriter, db: Db, storage: Blobs) -> Response:
    delete_job(db, storage, caller.project, job_id)
    return RedirectResponse("/", 303)


def _back(job_id: str) -> Response:
    """To the job's page, as a GET that a reload may repeat."""
    return RedirectResponse(f"/jobs/{job_id}", 303)
