"""The page of one job: verdict, progress, freeze map, policy, curves, events, log, tensors."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import and_, bindparam, case, func, select
from sqlalchemy.orm import Session

from app.auth.caller import AsReader
from app.errors import NotFound
from app.evidence.causes import by_cause
from app.evidence.schemas import EvidenceObject, ParameterObject
from app.evidence.tables import Evidence, Parameter
from app.http.dependencies import Config, Db
from app.jobs import views
from app.jobs.answers import EventObject
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.queries import find_job
from app.jobs.queue.tables import Event, Job, Metric
from app.logs.queries import read, tail
from app.models.tables import Model
from app.pages import change_map, commands, overlay
from app.pages.render import render_page
from app.sweeps.tables import Sweep

router = APIRouter(include_in_schema=False)

SHOWN_PARAMETERS = 50
SHOWN_PROBLEMS = 20
SHOWN_VIOLATIONS = 200
SHOWN_EVENTS = 100
SHOWN_LINES = 200
_BROKEN: Final = and_(Parameter.role == "frozen", Parameter.changed.is_(True))
_CHANGE: Final = Parameter.stats["relative_l2"].as_float()


@dataclass(frozen=True, slots=True)
class Shown:
    """Which of a job's tensors the page shows, and which lines of its log."""

    role: str = ""
    changed: str = ""
    log: Annotated[str, Query(max_length=200)] = ""


@router.get("/jobs/{job_id}")
def job_page(
    job_id: str, request: Request, caller: AsReader, db: Db, settings: Config, shown: Annotated[Shown, Depends()]
) -> Response:
    """Everything about one job on one page."""
    with db.read() as session:
        try:
            row = find_job(session, caller.project, job_id)
        except NotFound as error:
            return render_page(
                request, "error.html", 404, title="No such job", message=error.message, error_code=error.code
            )
        context: dict[str, Any] = {
            "job": views.job_objects(session, [row], ProjectShares.of(settings))[0],
            "version": row.version,
            "live": not row.ended,
            "controls": caller.offered("writer"),
            "shown_problems": SHOWN_PROBLEMS,
            "sweep": session.get(Sweep, row.sweep_id) if row.sweep_id else None,
            "shown_violations": SHOWN_VIOLATIONS,
        }
        context |= _curves(session, row) | _parameters(session, row, role=shown.role, changed=shown.changed)
        context |= _result(session, row) | _events(session, job_id)
        context |= _violations(session, context["stated"])
        context |= change_map.of_job(session, row.id) if row.ended else change_map.NONE
        context |= _commands(context, row, url=str(request.base_url).rstrip("/"), with_key=settings.auth_required)
        context |= _log(session, row, shown.log.strip())
    return render_page(request, "job.html", **context)


def _curves(session: Session, row: Job) -> dict[str, Any]:
    """The loss and what stands beside it, and the last point of each split."""
    points = (Metric.job_id == row.id, Metric.split == bindparam("split"))
    newest = select(Metric).where(*points).order_by(Metric.step.desc()).limit(1)
    latest = {split: session.scalar(newest, {"split": split}) for split in ("train", "valid")}
    charts = overlay.of_job(session, row.id)
    return {"curve": charts.pop("Loss", None), "charts": charts, "latest": latest}


def _parameters(session: Session, row: Job, *, role: str, changed: str) -> dict[str, Any]:
    """The tensors to show, and how many there are in each role."""
    mine = select(Parameter).where(Parameter.job_id == row.id)
    roles = session.execute(
        select(Parameter.role, func.count()).where(Parameter.job_id == row.id).group_by(Parameter.role)
    )
    chosen = mine.where(Parameter.role == role) if role else mine
    chosen = chosen.where(Parameter.changed.is_(changed == "true")) if changed else chosen
    # What should not have changed comes first, the worst of it on top, wherever it is in the model.
    worst = case((_BROKEN, -func.coalesce(_CHANGE, 0)), else_=1)
    rows = session.scalars(chosen.order_by(worst, Parameter.position).limit(SHOWN_PARAMETERS + 1)).all()
    return {
        "parameters": [ParameterObject.of(each) for each in rows[:SHOWN_PARAMETERS]],
        "more_parameters": len(rows) > SHOWN_PARAMETERS,
        "roles": dict(roles.all()),
        "role": role,
        "changed": changed,
    }


def _events(session: Session, job_id: str) -> dict[str, Any]:
    newest = select(Event).where(Event.job_id == job_id).order_by(Event.seq.desc()).limit(SHOWN_EVENTS + 1)
    events = [EventObject.of(each) for each in session.scalars(newest)]
    return {"events": events[:SHOWN_EVENTS], "more_events": len(events) > SHOWN_EVENTS}


def _log(session: Session, row: Job, text: str) -> dict[str, Any]:
    """The end of the log; with a text to look for, the last lines that have it, in any case."""
    if not text:
        return {"lines": tail(session, row.id, SHOWN_LINES), "printed": row.log_lines, "searched": ""}
    wanted = text.casefold()
    found = [line for line in read(session, row.id) if wanted in line.text.casefold()]
    return {"lines": found[-SHOWN_LINES:], "found": len(found), "printed": row.log_lines, "searched": text}


def _result(session: Session, row: Job) -> dict[str, Any]:
    found = session.get(Evidence, row.id)
    return {
        "evidence": EvidenceObject.of(found) if found else None,
        "attested": bool(found and found.envelope),
        "result": session.get(Model, row.fine_tuned_model) if row.fine_tuned_model else None,
        "stated": found,
    }


def _violations(session: Session, evidence: Evidence | None) -> dict[str, Any]:
    """What changed though frozen: by cause, and by tensor with its relative change, the most changed first."""
    if evidence is None or not evidence.violations:
        return {"causes": [], "changed_frozen": []}
    rows = session.execute(select(Parameter.name, _CHANGE).where(Parameter.job_id == evidence.job_id, _BROKEN))
    changes: dict[str, float | None] = dict(rows.all())
    names = [str(violation["name"]) for violation in evidence.violations]
    worst = sorted(names, key=lambda name: (-(changes.get(name) or 0), name))
    return {
        "causes": by_cause(evidence.violations),
        "changed_frozen": [(name, changes.get(name)) for name in worst],
    }


def _commands(context: dict[str, Any], row: Job, *, url: str, with_key: bool) -> dict[str, str]:
    """How anyone checks a result that was attested."""
    if not context["attested"] or context["result"] is None:
        return {}
    return {
        "fetch_command": commands.fetch(url, row, context["result"], with_key=with_key),
        "verify_command": commands.verify(context["stated"], rows="split" in context["roles"]),
    }
