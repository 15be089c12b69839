"""What a project may hold. Exact however many processes ask: the check and what it allows are one transaction."""

from typing import Any, Final

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.orm import Session

from app.errors import PermafrostError

#: Any number; the first half of PostgreSQL's advisory locks on projects.
_LOCKS: Final = 0x5146


class QuotaSpent(PermafrostError):
    """Waiting does not help, so clients are told not to retry."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, headers={"x-should-retry": "false"})


def take_turns(session: Session, project: str) -> None:
    """Others who take turns for the project wait until this transaction ends, so that a check holds until then."""
    if session.get_bind().dialect.name == "postgresql":  # on SQLite there is one writer at a time
        lock = text("SELECT pg_advisory_xact_lock(:space, hashtext(:project))")
        session.execute(lock, {"space": _LOCKS, "project": project})


def check(session: Session, used: ColumnElement[Any], *, asked: int, limit: int, what: str, remedy: str) -> None:
    """Raises QuotaSpent unless `asked` more fit beside what is `used`."""
    there = int(session.scalar(select(used)) or 0)
    if there + asked > limit:
        raise QuotaSpent(f"this project may have {limit:,} {what} and has {there:,}; {remedy}")
