"""Jobs joined with evidence and queue positions."""

from app.db import Database
from app.jobs import views
from app.jobs.listing import Filters, page
from app.jobs.queue import lifecycle
from tests.app.jobs.jobs import new_job


def test_places_are_told_for_a_page_as_for_one(db: Database) -> None:
    """By priority, then age; a paused job has none."""
    for n in range(4):
        lifecycle.submit(db, new_job(id=f"ftjob-{n}", priority=n % 2))
    lifecycle.pause(db, "default", "ftjob-0")
    with db.read() as session:
        found, _ = page(session, "default", Filters(), after=None, limit=10, order="asc")
        assert [job.queue_position for job in views.job_objects(session, found)] == [None, 1, 3, 2]
        assert [views.job_objects(session, [job])[0].queue_position for job in found] == [None, 1, 3, 2]
