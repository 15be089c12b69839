"""Pages for people: dashboard, a job, the API's documentation. Every asset comes from this process."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth import Who
from app.curves.records import metrics
from app.dependencies import Config, Db
from app.errors import NotFound
from app.evidence.schemas import EvidenceObject, ParameterObject
from app.evidence.tables import Evidence, Parameter
from app.jobs import lifecycle, views
from app.jobs.answers import EventObject
from app.jobs.states import TERMINAL
from app.jobs.tables import Event, Job
from app.logs.records import tail
from app.models.tables import Model
from app.pages.curve import draw
from app.pages.format import FILTERS

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent
#: Nothing from elsewhere, and no script that is not one of our files. Swagger UI sets styles from script.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
PAGE = 25
SHOWN_PARAMETERS = 200
SHOWN_EVENTS = 100
SHOWN_LINES = 200

templates = Jinja2Templates(directory=FOLDER / "templates")
templates.env.filters.update(FILTERS)


def mount_static(application: FastAPI) -> None:
    application.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")


@router.get("/")
def dashboard(
    request: Request, who: Who, db: Db, page: Annotated[int, Query(ge=1, le=10_000)] = 1, status: str = ""
) -> Response:
    """Counts by state, and the newest jobs."""
    mine = select(Job).where(Job.project == who.project)
    chosen = mine.where(Job.status == status) if status else mine
    newest = chosen.order_by(Job.created_at.desc(), Job.id.desc()).offset((page - 1) * PAGE).limit(PAGE + 1)
    with db.read() as session:
        rows = list(session.scalars(newest))
        jobs = views.shown(session, rows[:PAGE])
        counts = _counts(session, who.project)
    more = len(rows) > PAGE
    return _page(request, "dashboard.html", jobs=jobs, counts=counts, status=status, page=page, more=more)


@router.get("/jobs/{job_id}")
def job_page(
    job_id: str, request: Request, who: Who, db: Db, settings: Config, role: str = "", changed: str = ""
) -> Response:
    """Everything about one job on one page."""
    with db.read() as session:
        try:
            row = lifecycle.find(session, who.project, job_id)
        except NotFound as error:
            return _page(request, "error.html", 404, title="No such job", message=error.message)
        context: dict[str, Any] = {
            "job": views.shown(session, [row])[0],
            "version": row.version,
            "live": row.status not in TERMINAL,
        }
        context |= (
            _curves(session, row) | _evidence(session, row) | _parameters(session, row, role=role, changed=changed)
        )
        context |= _result(session, row)
        newest = select(Event).where(Event.job_id == job_id).order_by(Event.seq.desc()).limit(SHOWN_EVENTS)
        context["events"] = [EventObject.of(each) for each in session.scalars(newest)]
        context |= {"lines": tail(session, job_id, SHOWN_LINES), "printed": row.log_lines}
    return _page(request, "job.html", **context)


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """Swagger UI from our own files."""
    return _page(request, "docs.html", openapi_url=request.app.openapi_url)


def _page(request: Request, template: str, code: int = 200, **context: Any) -> Response:
    headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-store"}
    return templates.TemplateResponse(request, template, context, status_code=code, headers=headers)


def _counts(session: Session, project: str) -> dict[str, int]:
    by_status = select(Job.status, func.count()).where(Job.project == project).group_by(Job.status)
    by_verdict = (
        select(Evidence.verdict, func.count())
        .join(Job, Job.id == Evidence.job_id)
        .where(Job.project == project)
        .group_by(Evidence.verdict)
    )
    return dict(session.execute(by_status).all()) | dict(session.execute(by_verdict).all())


def _curves(session: Session, row: Job) -> dict[str, Any]:
    """The loss, as long as the trainer reports one."""
    points = metrics(session, row.id, split=None, first=0, last=None, limit=600).data
    series: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        loss = point.values.get("loss")
        if isinstance(loss, int | float):
            series.setdefault(point.split, []).append((point.step, float(loss)))
    return {"curve": draw(series), "last": points[-1] if points else None}


def _evidence(session: Session, row: Job) -> dict[str, Any]:
    found = session.get(Evidence, row.id)
    return {"evidence": EvidenceObject.of(found) if found else None, "attested": bool(found and found.envelope)}


def _parameters(session: Session, row: Job, *, role: str, changed: str) -> dict[str, Any]:
    """The tensors to show, and how many there are in each role."""
    mine = select(Parameter).where(Parameter.job_id == row.id)
    roles = session.execute(
        select(Parameter.role, func.count()).where(Parameter.job_id == row.id).group_by(Parameter.role)
    )
    chosen = mine.where(Parameter.role == role) if role else mine
    chosen = chosen.where(Parameter.changed.is_(changed == "true")) if changed else chosen
    rows = session.scalars(chosen.order_by(Parameter.position).limit(SHOWN_PARAMETERS + 1)).all()
    return {
        "parameters": [ParameterObject.of(each) for each in rows[:SHOWN_PARAMETERS]],
        "more_parameters": len(rows) > SHOWN_PARAMETERS,
        "roles": dict(roles.all()),
        "role": role,
        "changed": changed,
    }


def _result(session: Session, row: Job) -> dict[str, Any]:
    model = session.get(Model, row.fine_tuned_model) if row.fine_tuned_model else None
    return {"model_files": model.files if model else [], "model_id": row.fine_tuned_model}
