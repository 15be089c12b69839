"""Filters a list of jobs, by rows and by labels; each filter has an index in the list's own order."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, get_args

from sqlalchemy import and_, select
from sqlalchemy.orm import Session, aliased

from app.errors import InvalidRequest
from app.jobs.queue.states import Status
from app.jobs.queue.tables import Job, Label
from app.paging.keyset import Order, keyset

_METADATA: Final = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
#: A job has no more labels than this, and databases limit the number of joins.
_MOST_LABELS: Final = 32


@dataclass(slots=True)
class Filters:
    """Which jobs a list has. `labels` are pairs of metadata; a tag is a label without a name."""

    statuses: Sequence[str] = ()
    model: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    labels: list[tuple[str, str]] = field(default_factory=list)
    without_metadata: bool = False

    def read(self, parameters: Iterable[tuple[str, str]]) -> "Filters":
        """Adds the parameters whose names no schema can list: `metadata[key]`, and the SDK's `x[]`."""
        statuses = list(self.statuses)
        for key, value in parameters:
            if key == "metadata":
                self.without_metadata |= _null(value)
            elif key == "status[]":
                statuses.append(_state(value))
            elif key == "tag[]":
                self.labels.append(("", value))
            elif match := _METADATA.fullmatch(key):
                self.labels.append((match[1], value))
            elif key.startswith("metadata["):
                raise InvalidRequest(f"{key!r} is not metadata[key], a key of 1 to 64 characters", param="metadata")

        self.statuses = list(dict.fromkeys(statuses))
        self.labels = list(dict.fromkeys(self.labels))
        if len(self.labels) > _MOST_LABELS:
            message = f"filters on {len(self.labels)} tags and metadata entries; {_MOST_LABELS} at most"
            raise InvalidRequest(message, param="tag", code="too_many_filters")
        return self


def page(
    session: Session, project: str, filters: Filters, *, after: str | None, limit: int, order: Order
) -> tuple[list[Job], bool]:
    """One page of the project's jobs, and whether more follow."""
    everything = select(Job).where(Job.project == project)
    statement, by = everything, (Job.created_at, Job.id)

    for number, (name, value) in enumerate(filters.labels):
        label: Any = aliased(Label)
        same = (label.project == project, label.name == name, label.value == value)
        statement = statement.join(label, and_(label.job_id == Job.id, label.created_at == Job.created_at, *same))
        if number == 0:
            by = (label.created_at, label.job_id)  # so that the database walks the labels in the list's order

    if filters.statuses:
        one, *more = filters.statuses
        statement = statement.where(Job.status.in_(filters.statuses) if more else Job.status == one)
    if filters.model is not None:
        statement = statement.where(Job.model == filters.model)
    if filters.created_after is not None:
        statement = statement.where(by[0] > _time(filters.created_after))
    if filters.created_before is not None:
        statement = statement.where(by[0] < _time(filters.created_before))
    if filters.without_metadata:
        statement = statement.where(Job.meta.is_(None))
    return keyset(session, statement, Job, within=everything, by=by, after=after, limit=limit, order=order)


def _null(value: str) -> bool:
    if value != "null":
        message = "filter with metadata[key]=value, or metadata=null for jobs without any"
        raise InvalidRequest(message, param="metadata", code="invalid_value")
    return True


def _state(value: str) -> str:
    if value not in get_args(Status):
        message = f"{value!r} is not a job's state; the states are {', '.join(get_args(Status))}"
        raise InvalidRequest(message, param="status", code="invalid_value")
    return value


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
