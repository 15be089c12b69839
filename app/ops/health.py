"""`/healthz`, `/readyz` and `/metrics`. Metrics of the whole service are read from the database at each scrape."""

import shutil
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import Database, now
from app.evidence.tables import Evidence
from app.http.dependencies import Config, Db
from app.http.telemetry import REGISTRY
from app.jobs.queue.tables import WAITING, Job
from app.ops.gangs import gauge_of_gangs
from app.ops.workers import gauges_of_workers
from app.settings import Settings

router = APIRouter(tags=["Operations"])

#: Sums over all jobs.
_COUNTERS: Final = {
    "attempts": (Job.attempt, "Attempts at jobs so far"),
    "crashes": (Job.crashes, "Attempts that ended in a crash"),
    "lease_takeovers": (Job.takeovers, "Crashes of these in which the worker was gone"),
    "gangs_formed": (Job.gangs, "Attempts on several machines in which all of the gang came together"),
    "gang_forming_seconds": (Job.forming_seconds, "Seconds from the claim until all had come, of all these"),
    "gang_members_lost": (Job.lost_members, "Attempts that ended because a member of the gang was not heard of"),
}


@router.get("/healthz", operation_id="live", summary="Is this process alive?")
async def live() -> dict[str, str]:
    """Answers while the process runs. Uses neither database nor storage."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Can this process serve?",
    responses={503: {"description": "Not ready; `problems` says why.", "content": {"application/json": {}}}},
)
def ready(request: Request, db: Db, response: Response) -> dict[str, Any]:
    """Ready when the database answers, its tables match this version, and the worker of `permafrost serve` runs.

    A broker that cannot be reached only slows jobs down.
    """
    worker_problem: Callable[[], str | None] = getattr(request.app.state, "worker_problem", lambda: None)
    checks = {"database": database_problem(db), "worker": worker_problem()}
    problems = {name: problem for name, problem in checks.items() if problem}
    response.status_code = 503 if problems else 200
    return {"status": "unready" if problems else "ready", "problems": problems}


@router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
def metrics(db: Db, settings: Config) -> Response:
    """Any API process reports the whole service, workers included: values come from the database at every scrape."""
    registry = CollectorRegistry()
    registry.register(_Service(db, settings))
    return Response(generate_latest(REGISTRY) + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def database_problem(db: Database) -> str | None:
    """A sentence on why the database cannot be used, or None."""
    try:
        with db.read() as session:
            versions = session.scalars(text("SELECT version_num FROM alembic_version")).all()
    except SQLAlchemyError as error:
        lines = str(getattr(error, "orig", error)).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        if "alembic_version" in reason:
            return "the database has no tables yet: run `permafrost migrate`"
        return f"{reason}; see PERMAFROST_DATABASE_URL"
    head = _migration_head()
    if versions != [head]:
        current = ", ".join(versions) or "none"
        return f"the tables are at version {current}, and this version needs {head}: run `permafrost migrate`"
    return None


@cache
def _migration_head() -> str:
    from migrations.upgrade import head  # Alembic takes a while to import, and only this needs it

    return head()


class _Service:
    """Gauges of the whole service, the same from every process."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    def collect(self) -> list[GaugeMetricFamily]:
        with self._db.read() as session:
            workers = gauges_of_workers(session)
            return [*_jobs(session), *_ages(session), _disk(self._settings), *workers, gauge_of_gangs(session)]


def _jobs(session: Session) -> list[GaugeMetricFamily]:
    jobs = GaugeMetricFamily("permafrost_jobs", "Jobs by state", labels=["status"])
    for status, count in session.execute(select(Job.status, func.count()).group_by(Job.status)):
        jobs.add_metric([status], count)
    verdicts = GaugeMetricFamily("permafrost_evidence", "Finished jobs by verdict", labels=["verdict"])
    for verdict, count in session.execute(select(Evidence.verdict, func.count()).group_by(Evidence.verdict)):
        verdicts.add_metric([verdict], count)
    sums = session.execute(select(*(func.coalesce(func.sum(column), 0) for column, _ in _COUNTERS.values()))).one()
    counted = zip(_COUNTERS.items(), sums, strict=True)
    return [
        jobs,
        verdicts,
        *(GaugeMetricFamily(f"permafrost_{name}", meaning, value=float(sum)) for (name, (_, meaning)), sum in counted),
    ]


def _ages(session: Session) -> list[GaugeMetricFamily]:
    at = now(session)
    oldest = session.scalar(select(func.min(Job.created_at)).where(WAITING))
    lease = session.scalar(select(func.min(Job.lease_until)).where(Job.lease_until.is_not(None)))
    return [
        GaugeMetricFamily("permafrost_oldest_queued_seconds", "Age of the oldest waiting job", value=_age(oldest, at)),
        GaugeMetricFamily(
            "permafrost_lease_overdue_seconds", "How far the worst lease is past its end", value=_age(lease, at)
        ),
    ]


def _age(moment: datetime | None, at: datetime) -> float:
    return max(0.0, (at - moment).total_seconds()) if moment is not None else 0.0


def _disk(settings: Settings) -> GaugeMetricFamily:
    settings.home.mkdir(parents=True, exist_ok=True)
    return GaugeMetricFamily(
        "permafrost_disk_free_bytes", "Free bytes where data is kept", value=shutil.disk_usage(settings.home).free
    )
