"""The files that a project has, and the bytes that it may store. For the API and for workers."""

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.auth.quotas import check
from app.db import now
from app.files.tables import File
from app.models.tables import Model


def visible(session: Session, project: str) -> Select[File]:
    """The project's files that have not expired."""
    return select(File).where(File.project == project, or_(File.expires_at.is_(None), File.expires_at > now(session)))


def check_quota(session: Session, project: str, *, asked: int, limit: int) -> None:
    """Raise QuotaSpent unless the project may store `asked` more bytes: its files, and its models' own bytes."""
    files = visible(session, project).with_only_columns(func.coalesce(func.sum(File.bytes), 0)).scalar_subquery()
    models = select(func.coalesce(func.sum(Model.stored_bytes), 0)).where(Model.project == project).scalar_subquery()
    remedy = "delete files or models first"
    check(session, files + models, requested=asked, limit=limit, what="stored bytes", remedy=remedy)
