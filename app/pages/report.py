"""The report: a job as one HTML file for an auditor's folder, which loads nothing and prints well."""

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app import __version__
from app.auth.caller import AsReader
from app.errors import Conflict
from app.evidence.causes import by_cause
from app.evidence.schemas import EvidenceObject, ParameterObject
from app.evidence.tables import Evidence, Parameter
from app.files.tables import File
from app.http.dependencies import Config, Db, JobId
from app.jobs import views
from app.jobs.queue.queries import find_job
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.openapi.prose import CONFLICT, ERRORS, REPORT
from app.pages import commands, freeze_map
from app.pages.render import FOLDER, templates

router = APIRouter(tags=["Evidence"], responses=ERRORS)

#: The file may be opened from a disk or a mail: nothing in it is loaded, run or sent.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
#: Tensors in the table; the picture has all of them, and the attestation too.
SHOWN_TENSORS: Final = 500
SHOWN_VIOLATIONS: Final = 200


@router.get(
    "/fine_tuning/jobs/{fine_tuning_job_id}/report",
    operation_id="downloadJobReport",
    summary="Download a job's report",
    response_class=HTMLResponse,
    responses={**REPORT, **CONFLICT},
)
def download_report(
    fine_tuning_job_id: JobId, request: Request, caller: AsReader, db: Db, settings: Config
) -> Response:
    """A job that has ended as one self-contained HTML file for an auditor's folder.

    It has the verdict, the freeze map, the policy, statistics, digests of data and base, and how to verify all of it.
    """
    with db.read() as session:
        row = find_job(session, caller.project, fine_tuning_job_id)
        if not row.ended:
            raise Conflict(
                f"job {row.id} is {row.status}; its report is made when it has ended", param="fine_tuning_job_id"
            )
        url = str(request.base_url).rstrip("/")
        context = _context(session, row, url=url, with_key=settings.auth_required)
    page = templates.get_template("report.html").render(context)
    headers = {
        "content-security-policy": POLICY,
        "content-disposition": f'inline; filename="{row.id}.report.html"',
        "x-content-type-options": "nosniff",
    }
    return HTMLResponse(page, headers=headers)


def _context(session: Session, row: Job, *, url: str, with_key: bool) -> dict[str, Any]:
    evidence = session.get(Evidence, row.id)
    tensors = freeze_map.tensors_of(session, row.id)
    kinds = {tensor.kind for tensor in tensors}
    kinds |= {"t3"} if any(kind.startswith("t") and kind != "t0" for kind in kinds) else set()
    context: dict[str, Any] = {
        "job": views.job_objects(session, [row])[0],
        "evidence": EvidenceObject.of(evidence) if evidence else None,
        "causes": by_cause(evidence.violations)[:SHOWN_VIOLATIONS] if evidence else [],
        "map": freeze_map.draw(tensors, full=True),
        "map_key": freeze_map.KEY,
        "map_kinds": dict.fromkeys(kinds, True),
        "style": (FOLDER / "static" / "style.css").read_text("utf-8"),
        "made_at": int(datetime.now(UTC).timestamp()),
        "version": __version__,
        "service": url,
    }
    return (
        context | _files(session, row) | _tensors(session, row) | _verification(session, row, evidence, url, with_key)
    )


def _files(session: Session, row: Job) -> dict[str, Any]:
    """The digests of what went in and what came out. A file or model may have been deleted since."""
    names = [("Training file", row.training_file), ("Validation file", row.validation_file)]
    data = [(title, name, session.get(File, name)) for title, name in names if name]
    base = session.get(Model, row.base_model) if row.base_model else None
    result = session.get(Model, row.fine_tuned_model) if row.fine_tuned_model else None
    return {"data_files": data, "base": base, "result": result}


def _tensors(session: Session, row: Job) -> dict[str, Any]:
    """The tensors of the table: what should not have changed first, then the most changed."""
    change = func.coalesce(Parameter.stats["relative_l2"].as_float(), -1)
    broken = case(((Parameter.role == "frozen") & Parameter.changed.is_(True), 0), else_=1)
    chosen = select(Parameter).where(Parameter.job_id == row.id).order_by(broken, change.desc(), Parameter.position)
    rows = session.scalars(chosen.limit(SHOWN_TENSORS)).all()
    total = session.scalar(select(func.count()).where(Parameter.job_id == row.id))
    return {"parameters": [ParameterObject.of(each) for each in rows], "parameter_count": total or 0}


def _verification(session: Session, row: Job, evidence: Evidence | None, url: str, with_key: bool) -> dict[str, Any]:
    """The digest of the attestation, and the commands that check it."""
    if evidence is None or evidence.envelope is None:
        return {"attestation_sha256": None, "fetch_command": None, "verify_command": None}
    result = session.get(Model, row.fine_tuned_model) if row.fine_tuned_model else None
    split = session.scalar(select(func.count()).where(Parameter.job_id == row.id, Parameter.role == "split"))
    return {
        "attestation_sha256": hashlib.sha256(evidence.envelope).hexdigest(),
        "fetch_command": commands.fetch(url, row, result, with_key=with_key),
        "verify_command": commands.verify(evidence, rows=bool(split)),
    }
