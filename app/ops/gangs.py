"""How many jobs on several machines wait, how many come together, and how many train."""

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import ColumnElement, TextClause, exists, func, select
from sqlalchemy.orm import Session

from app.jobs.queue.states import LEASED, TO_RUN
from app.jobs.queue.tables import WAITING, GangMember, Job


def gauge_of_gangs(session: Session) -> GaugeMetricFamily:
    """By state: `forming` is one of whose members one has not taken its place yet."""
    invited = exists().where(GangMember.job_id == Job.id, GangMember.state == "invited")
    leased = (Job.lease_until.is_not(None), Job.status.in_(LEASED))
    waiting = _count(session, WAITING, Job.desired.in_(TO_RUN))
    forming, running = _count(session, *leased, invited), _count(session, *leased, ~invited)

    gauge = GaugeMetricFamily("permafrost_gangs", "Jobs on several machines by state", labels=["state"])
    for state, count in (("waiting", waiting), ("forming", forming), ("running", running)):
        gauge.add_metric([state], count)
    return gauge


def _count(session: Session, *conditions: ColumnElement[bool] | TextClause) -> int:
    return session.scalars(select(func.count()).select_from(Job).where(Job.machines > 1, *conditions)).one()
