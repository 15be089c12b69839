"""Curves of several jobs in one picture each: loss, learning rate, gradient norm, throughput."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth.caller import AsReader
from app.curves.queries import metrics
from app.http.dependencies import Db
from app.jobs.answers import MetricPoint
from app.jobs.queue.queries import find_job
from app.jobs.queue.tables import Job
from app.pages.curve import Curve, Series, draw
from app.pages.render import render_page

router = APIRouter(include_in_schema=False)

#: As many colours and dashes as there are.
MOST_JOBS: Final = 8
#: Of each curve: what a screen can show; beside the loss on a job's page fewer do.
POINTS: Final = 300
FEW_POINTS: Final = 100
OFFERED: Final = 25

CHARTS: Final = {
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "examples_per_second": "Examples per second",
    "tokens_per_second": "Tokens per second",
}


@router.get("/curves")
def curves_page(
    request: Request, caller: AsReader, db: Db, job: Annotated[list[str] | None, Query(max_length=64)] = None
) -> Response:
    """The curves of the jobs that the address names, with the newest jobs to choose from."""
    chosen = list(dict.fromkeys(job or ()))[:MOST_JOBS]
    with db.read() as session:
        jobs = [find_job(session, caller.project, each) for each in chosen]
        newest = select(Job).where(Job.project == caller.project).order_by(Job.created_at.desc(), Job.id.desc())
        offered = [row for row in session.scalars(newest.limit(OFFERED)) if row.id not in chosen]
        charts = overlaid(session, jobs)
    return render_page(request, "curves.html", jobs=jobs, offered=offered, charts=charts, most=MOST_JOBS)


def of_job(session: Session, job_id: str) -> dict[str, Curve]:
    """One job's curves by title; the loss has training and validation apart."""
    points = metrics(session, job_id, split=None, first=0, last=None, limit=2 * POINTS).data
    charts: dict[str, Any] = {}
    for name, title in CHARTS.items():
        series = []
        for split, word in (("train", "training"), ("valid", "validation")):
            most = POINTS if name == "loss" else FEW_POINTS
            series.append(Series(word, split, _thinned(_values(points, name, split), most)))
        charts[title] = draw(series)
    return {title: curve for title, curve in charts.items() if curve is not None}


def overlaid(session: Session, jobs: list[Job]) -> dict[str, Curve]:
    """The jobs' curves by title, each job in its own colour: of the loss that of the validation, where all have one."""
    read = {}
    for row in jobs:
        read[row.id] = metrics(session, row.id, split=None, first=0, last=None, limit=2 * POINTS).data
    validated = bool(jobs) and all(any(at.split == "valid" for at in points) for points in read.values())
    charts: dict[str, Any] = {}
    for name, title in CHARTS.items():
        split = "valid" if name == "loss" and validated else "train"
        series = []
        for number, row in enumerate(jobs, start=1):
            numbers = _values(read[row.id], name, split)
            series.append(Series(_name(row), f"line{number}", _thinned(numbers)))
        charts[f"Validation {title.lower()}" if split == "valid" else title] = draw(series)
    return {title: curve for title, curve in charts.items() if curve is not None}


def _name(job: Job) -> str:
    """Short, and its own: several jobs may have one suffix."""
    return f"{job.suffix} …{job.id[-6:]}" if job.suffix else job.id


def _values(points: Sequence[MetricPoint], name: str, split: str) -> list[tuple[int, float]]:
    """One metric by step, where it was reported as a number."""
    found = ((point.step, point.values.get(name)) for point in points if point.split == split)
    return [(step, float(value)) for step, value in found if isinstance(value, int | float)]


def _thinned(points: list[tuple[int, float]], most: int = POINTS) -> list[tuple[int, float]]:
    if len(points) <= most:
        return points
    return [points[round(at * (len(points) - 1) / (most - 1))] for at in range(most)]
