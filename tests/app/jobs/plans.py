"""How a database reads a query: whether it uses an index that has the order of the result."""

from datetime import timedelta
from typing import Any

from sqlalchemy import event, text

from app.db import Database, now
from app.jobs.queue.tables import Label
from tests.app.jobs.jobs import new_job


def crowd(db: Database) -> None:
    """Five hundred finished jobs of others, so that the planner has something to choose between."""
    with db.write() as session:
        at = now(session)
        given = {"status": "succeeded", "finished_at": at, "result_files": []}
        times = [at - timedelta(seconds=n) for n in range(500)]
        jobs = [new_job(id=f"ftjob-{n}", model="other", created_at=time, **given) for n, time in enumerate(times)]
        session.add_all(jobs)
        session.flush()
        label = {"project": "default", "name": "team", "value": "b"}
        session.add_all(Label(**label, created_at=job.created_at, job_id=job.id) for job in jobs)
    with db.write() as session:
        session.execute(text("ANALYZE"))


def plan_of(db: Database, ask: Any, *, free: bool = False) -> str:
    """How the database reads the last query of `ask`.

    Unless it chooses `free`ly, PostgreSQL must not scan or sort, which it likes for tables that fit into a page.
    """
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    with db.read() as session:
        bind = session.get_bind()
        event.listen(bind, "before_cursor_execute", note)
        try:
            ask(session)
        finally:
            event.remove(bind, "before_cursor_execute", note)
        statement, parameters = asked[-1]
        if not db.sqlite and not free:
            for each in ("seqscan", "bitmapscan", "sort"):
                session.execute(text(f"SET LOCAL enable_{each} = off"))
        explain = "EXPLAIN QUERY PLAN" if db.sqlite else "EXPLAIN"
        return "\n".join(str(row) for row in session.connection().exec_driver_sql(f"{explain} {statement}", parameters))
