"""What a project may hold. Exact however many processes ask: the check and what it allows are one transaction."""

from sqlalchemy import Select, text
from sqlalchemy.orm import Session

from app.errors import PermafrostError

#: Any number; the first half of PostgreSQL's advisory locks on projects.
_LOCKS = 0x5146


class QuotaSpent(PermafrostError):
    """Waiting does not help, so clients are told not to retry."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, headers={"x-should-retry": "false"})


def keep_within(
    session: Session, project: str, used: Select[int], *, asked: int, limit: int, what: str, remedy: str
) -> None:
    """Raises QuotaSpent unless `asked` more fit. Others who ask for the project wait until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":  # on SQLite there is one writer at a time
        session.execute(text("SELECT pg_advisory_xact_lock(:space, hashtext(:project))"), _lock(project))
    there = int(session.scalar(used) or 0)
    if there + asked > limit:
        raise QuotaSpent(f"this project may have {limit:,} {what} and has {there:,}; {remedy}")


def _lock(project: str) -> dict[str, object]:
    return {"space": _LOCKS, "project": project}
