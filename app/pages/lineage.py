"""Where a model comes from, and what was made of it: each step with its job, verdict and attestation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evidence.tables import Evidence
from app.jobs.queue.tables import Job
from app.models.catalog import visible
from app.models.tables import Model
from app.specs.models import adapter_start

#: Steps that are shown, and models that were made of one.
MOST: Final = 50


@dataclass(frozen=True, slots=True)
class Step:
    """A model, and how it came from the one before it; without a job it is where the line begins."""

    id: str
    kind: str
    present: bool
    job_id: str | None = None
    verdict: str | None = None
    attested: bool = False


def ancestors(session: Session, project: str, model: Model) -> list[Step]:
    """From the first base to the model itself."""
    steps: list[Step] = []
    seen: set[str] = set()
    row: Model | None = model
    while row is not None and row.id not in seen and len(steps) < MOST:
        seen.add(row.id)
        steps += _steps(session, [row])
        parent = _parent(session, row)
        row = session.scalar(visible(project).where(Model.id == parent)) if parent else None
        if parent and row is None:
            steps.append(Step(parent, "deleted", present=False))
    return steps[::-1]


def descendants(session: Session, project: str, model: Model) -> list[Step]:
    """What was made of it directly, newest first."""
    made = visible(project).where(Model.base_id == model.id, Model.id != model.id)
    rows = session.scalars(made.order_by(Model.created_at.desc(), Model.id).limit(MOST))
    return list(_steps(session, rows))


def _parent(session: Session, row: Model) -> str | None:
    """The model that the job began with: an adapter that goes on from another comes from that one."""
    job = session.get(Job, row.job_id) if row.job_id and row.kind != "initial" else None
    return (adapter_start(job.spec) if job is not None else None) or row.base_id


def _steps(session: Session, rows: Iterable[Model]) -> Iterator[Step]:
    models = list(rows)
    jobs = [row.job_id for row in models if row.job_id]
    columns = (Evidence.job_id, Evidence.verdict, Evidence.envelope.is_not(None))
    rows_of = session.execute(select(*columns).where(Evidence.job_id.in_(jobs)))
    found: dict[str, tuple[str | None, bool]] = {job: (verdict, signed) for job, verdict, signed in rows_of}
    for row in models:
        made = row.job_id if row.kind in ("fine_tuned", "checkpoint") else None
        # A checkpoint is left on the way: the job's attestation is about its result.
        verdict, attested = found.get(made or "", (None, False)) if row.kind == "fine_tuned" else (None, False)
        yield Step(row.id, row.kind, present=True, job_id=made, verdict=verdict, attested=attested)
