"""Points of a job's curves: a range of steps thinned out evenly, or the points after a cursor."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from app.jobs.answers import MetricList, MetricPoint
from app.jobs.live.watcher import Block, Feed, block
from app.jobs.queue.tables import Metric


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
    rows = session.scalars(_at(chosen, sampled=len(chosen) < len(keys), within=within))
    chosen_keys = {(step, kind) for step, kind in chosen}
    data = [MetricPoint.of(row) for row in rows if (row.step, row.split) in chosen_keys]
    return MetricList(data=data, sampled=len(chosen) < len(keys), has_more=False)


def _blocks(session: Session, job_id: str, after: int, upto: int) -> list[Block]:
    between = (Metric.job_id == job_id, Metric.seq > after, Metric.seq <= upto)
    rows = session.scalars(select(Metric).where(*between).order_by(Metric.seq))
    return [(row.seq, block(str(row.seq), MetricPoint.of(row).model_dump_json())) for row in rows]


POINTS: Final = Feed("points", lambda state: state.points, _blocks)


def _at(chosen: Sequence[tuple[int, str]], *, sampled: bool, within: Sequence[ColumnElement[bool]]) -> Select[Metric]:
    statement = select(Metric).where(*within).order_by(Metric.step, Metric.split)
    return statement.where(Metric.step.in_(sorted({step for step, _ in chosen}))) if sampled else statement


def _thinned(keys: Sequence[tuple[int, str]], limit: int) -> list[tuple[int, str]]:
    if limit == 1:
        return [keys[-1]]
    return [keys[round(index * (len(keys) - 1) / (limit - 1))] for index in range(limit)]
