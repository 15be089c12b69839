"""Filters a list of jobs, by rows and by labels; each filter has an index in the list's own order."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, get_args

from sqlalchemy import ColumnElement, Select, and_, false, or_, select
from sqlalchemy.orm import Session, aliased

from app.errors import InvalidRequest
from app.evidence.schemas import Verdict
from app.evidence.tables import Evidence
from app.jobs.queue.states import MOVES, TERMINAL, Status
from app.jobs.queue.tables import Job, Label
from app.paging.keyset import Order, keyset

_METADATA: Final = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
#: A job has no more labels than this, and databases limit the number of joins.
_MOST_LABELS: Final = 32


@dataclass(slots=True)
class Filters:
    """Which jobs a list has. `labels` are pairs of metadata; a tag is a label without a name.

    `text` is looked for, in any case, in ids, models, suffixes, tags and metadata. No index helps: only pages have it.
    """

    statuses: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    model: str | None = None
    text: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    labels: list[tuple[str, str]] = field(default_factory=list)
    without_metadata: bool = False

    def read(self, parameters: Iterable[tuple[str, str]]) -> "Filters":
        """Adds the parameters whose names no schema can list: `metadata[key]`, and the SDK's `x[]`."""
        statuses, verdicts = list(self.statuses), list(self.verdicts)
        for key, value in parameters:
            if key == "metadata":
                self.without_metadata |= _null(value)
            elif key == "status[]":
                statuses.append(_one_of(Status, value, param="status"))
            elif key == "verdict[]":
                verdicts.append(_one_of(Verdict, value, param="verdict"))
            elif key == "tag[]":
                self.labels.append(("", value))
            elif match := _METADATA.fullmatch(key):
                self.labels.append((match[1], value))
            elif key.startswith("metadata["):
                raise InvalidRequest(f"{key!r} is not metadata[key], a key of 1 to 64 characters", param="metadata")

        self.statuses = list(dict.fromkeys(statuses))
        self.verdicts = list(dict.fromkeys(verdicts))
        self.labels = list(dict.fromkeys(self.labels))
        if len(self.labels) > _MOST_LABELS:
            message = f"filters on {len(self.labels)} tags and metadata entries; {_MOST_LABELS} at most"
            raise InvalidRequest(message, param="tag", code="too_many_filters")
        return self


def page(
    session: Session, project: str, filters: Filters, *, after: str | None, limit: int, order: Order
) -> tuple[list[Job], bool]:
    """One page of the project's jobs, and whether more follow."""
    statement, by = filtered(project, filters)
    everything = select(Job).where(Job.project == project)
    return keyset(
        session,
        statement,
        Job,
        within=everything,
        by=by,
        tombstones_of=project,
        after=after,
        limit=limit,
        order=order,
    )


def filtered(project: str, filters: Filters) -> tuple[Select[Job], tuple[Any, Any]]:
    """The project's jobs that the filters let through, and the columns by which their list is sorted."""
    statement, by = select(Job).where(Job.project == project), (Job.created_at, Job.id)

    for number, (name, value) in enumerate(filters.labels):
        label: Any = aliased(Label)
        same = (label.project == project, label.name == name, label.value == value)
        # Not by `created_at` as well: a planner takes that for a second, independent condition and expects few rows.
        statement = statement.join(label, and_(label.job_id == Job.id, *same))
        if number == 0:
            by = (label.created_at, label.job_id)  # so that the database walks the labels in the list's order

    if filters.statuses:
        one, *more = filters.statuses
        statement = statement.where(Job.status.in_(filters.statuses) if more else Job.status == one)
    if filters.verdicts:
        statement = statement.where(has_verdict(filters.verdicts))
    if filters.model is not None:
        statement = statement.where(Job.model == filters.model)
    if filters.text:
        statement = statement.where(_mentions(filters.text))
    if filters.created_after is not None:
        statement = statement.where(by[0] > _time(filters.created_after))
    if filters.created_before is not None:
        statement = statement.where(by[0] < _time(filters.created_before))
    if filters.without_metadata:
        statement = statement.where(Job.meta.is_(None))
    return statement, by


def _mentions(text: str) -> ColumnElement[bool]:
    """The condition on a job that one of its names or labels has this text in it."""
    label = select(Label.job_id).where(Label.job_id == Job.id, Label.value.icontains(text, autoescape=True)).exists()
    names = (Job.id, Job.model, Job.alias, Job.suffix)
    return or_(*(name.icontains(text, autoescape=True) for name in names), label)


def has_verdict(verdicts: Collection[str]) -> ColumnElement[bool]:
    """The condition on a job that `evidence.verdict`, as its answer has it, is one of these.

    A job that has succeeded has evidence, so that those without are few, and found by an index on their states.
    """
    judged = [verdict for verdict in verdicts if verdict not in ("pending", "none")]
    of_job = select(Evidence.job_id).where(Evidence.job_id == Job.id)
    unjudged = ~of_job.exists()
    conditions = [
        *([of_job.where(Evidence.verdict.in_(judged)).exists()] if judged else []),
        *([and_(unjudged, Job.status.in_(MOVES.keys() - TERMINAL))] if "pending" in verdicts else []),
        *([and_(unjudged, Job.status.in_(TERMINAL - {"succeeded"}))] if "none" in verdicts else []),
    ]
    return or_(false(), *conditions)


def _null(value: str) -> bool:
    if value != "null":
        message = "filter with metadata[key]=value, or metadata=null for jobs without any"
        raise InvalidRequest(message, param="metadata", code="invalid_value")
    return True


def _one_of(values: Any, value: str, *, param: str) -> str:
    if value not in get_args(values):
        message = f"{value!r} is not a {param} of a job; there are {', '.join(get_args(values))}"
        raise InvalidRequest(message, param=param, code="invalid_value")
    return value


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
