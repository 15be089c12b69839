"""Points of a job's curves: a range of steps thinned out evenly, or the points after a cursor."""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from app.jobs.answers import MetricList, MetricPoint
from app.jobs.live.watcher import Block, Feed, block
from app.jobs.queue.tables import Metric
from app.jsontypes import JsonDict

_Select = Select[int, str, int, JsonDict]
_COLUMNS: Final = (Metric.step, Metric.split, Metric.seq, Metric.values)


def metrics(
    session: Session, job_id: str, *, split: str | None, first: int, last: int | None, limit: int, after: int = 0
) -> MetricList:
    """The curve between two steps, thinned out evenly to `limit` points that include the first and the last.

    Only points numbered after `after`, so that a poller reads what it has not seen yet.
    """
    within = [Metric.job_id == job_id, Metric.step >= first]
    within += [Metric.step <= last] if last is not None else []
    within += [Metric.split == split] if split is not None else []
    within += [Metric.seq > after] if after else []

    total = session.scalars(select(func.count()).select_from(Metric).where(*within)).one()
    points = _thinned(within, total, limit) if total > limit else select(*_COLUMNS).where(*within)
    data = list(_points(session, points.order_by("step", "split")))
    return MetricList(data=data, sampled=total > limit, has_more=False)


def _blocks(session: Session, job_id: str, after: int, upto: int) -> list[Block]:
    between = (Metric.job_id == job_id, Metric.seq > after, Metric.seq <= upto)
    points = _points(session, select(*_COLUMNS).where(*between).order_by(Metric.seq))
    return [(point.seq, block(str(point.seq), point.model_dump_json())) for point in points]


POINTS: Final = Feed("points", lambda state: state.points, _blocks)


def _points(session: Session, statement: _Select) -> Iterator[MetricPoint]:
    """The points of a statement over columns, which is quicker than rows as objects of the ORM."""
    for step, split, seq, values in session.execute(statement):
        yield MetricPoint(step=step, split=split, seq=seq, values=values)


def _thinned(within: Sequence[ColumnElement[bool]], total: int, limit: int) -> _Select:
    """Every point at which `limit` - 1 equal parts of the curve begin, and the last one."""
    number = func.row_number().over(order_by=(Metric.step, Metric.split)) - 1
    rows = select(*_COLUMNS, number.label("number")).where(*within).subquery()
    at, parts = rows.c.number, max(limit - 1, 1)
    begins = (at * parts) // (total - 1) > ((at - 1) * parts) // (total - 1)
    chosen = begins | (at == 0) if limit > 1 else at == total - 1
    return select(rows.c.step, rows.c.split, rows.c.seq, rows.c["values"]).where(chosen)
