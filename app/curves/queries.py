"""Points of a job's curves: a range of steps thinned out evenly, or the points after a cursor."""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import ColumnElement, Select, select
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

    keys = session.execute(select(Metric.step, Metric.split).where(*within).order_by(Metric.step, Metric.split)).all()
    chosen = _thinned(keys, limit) if len(keys) > limit else keys
    chosen_keys = {(step, kind) for step, kind in chosen}
    points = _points(session, _at(chosen, sampled=len(chosen) < len(keys), within=within))
    data = [point for point in points if (point.step, point.split) in chosen_keys]
    return MetricList(data=data, sampled=len(chosen) < len(keys), has_more=False)


def _blocks(session: Session, job_id: str, after: int, upto: int) -> list[Block]:
    between = (Metric.job_id == job_id, Metric.seq > after, Metric.seq <= upto)
    points = _points(session, select(*_COLUMNS).where(*between).order_by(Metric.seq))
    return [(point.seq, block(str(point.seq), point.model_dump_json())) for point in points]


POINTS: Final = Feed("points", lambda state: state.points, _blocks)


def _points(session: Session, statement: _Select) -> Iterator[MetricPoint]:
    """The points of a statement over columns, which is quicker than rows as objects of the ORM."""
    for step, split, seq, values in session.execute(statement):
        yield MetricPoint(step=step, split=split, seq=seq, values=values)


def _at(chosen: Sequence[tuple[int, str]], *, sampled: bool, within: Sequence[ColumnElement[bool]]) -> _Select:
    statement = select(*_COLUMNS).where(*within).order_by(Metric.step, Metric.split)
    return statement.where(Metric.step.in_(sorted({step for step, _ in chosen}))) if sampled else statement


def _thinned(keys: Sequence[tuple[int, str]], limit: int) -> list[tuple[int, str]]:
    if limit == 1:
        return [keys[-1]]
    return [keys[round(index * (len(keys) - 1) / (limit - 1))] for index in range(limit)]
