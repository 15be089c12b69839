"""Limits on what a project stores and runs, exact across processes: check and write share a transaction."""

from typing import Any, Final

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.orm import Session

from app.errors import PermafrostError

#: An arbitrary number: the first half of the key of PostgreSQL's advisory locks on projects.
_LOCK_SPACE: Final = 0x5146


class QuotaSpent(PermafrostError):
    """The project has reached one of its limits. Waiting does not help, so the answer says not to retry."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, headers={"x-should-retry": "false"})


def lock_project(session: Session, project: str) -> None:
    """Locks the project's quotas until this transaction ends, so that the result of a check stays true until then."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time
        lock = text("SELECT pg_advisory_xact_lock(:space, hashtext(:project))")
        session.execute(lock, {"space": _LOCK_SPACE, "project": project})


def check(session: Session, used: ColumnElement[Any], *, requested: int, limit: int, what: str, remedy: str) -> None:
    """Raises QuotaSpent unless `requested` more fit beside what is `used`."""
    current = int(session.scalar(select(used)) or 0)
    if current + requested > limit:
        raise QuotaSpent(f"this project may have {limit:,} {what} and has {current:,}; {remedy}")
