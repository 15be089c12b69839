"""/v1/audit_logs: lists who changed what, and when."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from app.audit.schemas import AuditLogList, AuditLogObject
from app.audit.tables import AuditLog
from app.auth.caller import AsAdmin
from app.http.dependencies import Db
from app.openapi.prose import ERRORS
from app.paging.keyset import AfterQuery, OrderQuery, keyset

router = APIRouter(prefix="/audit_logs", tags=["Audit log"], responses=ERRORS)

_Time = Annotated[int | None, Query(ge=0, le=253402300799, description="Unix time.")]


@router.get("", operation_id="listAuditLogs", summary="List who changed what")
def list_audit_logs(
    caller: AsAdmin,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "desc",
    action: Annotated[str | None, Query(max_length=64, description="Only changes by this operation.")] = None,
    api_key_id: Annotated[str | None, Query(max_length=16, description="Only changes made with this key.")] = None,
    object_id: Annotated[str | None, Query(max_length=256, description="Only changes of this object.")] = None,
    created_after: _Time = None,
    created_before: _Time = None,
) -> AuditLogList:
    """Every change made in this project, newest first. Needs the role admin."""
    of_project = statement = select(AuditLog).where(AuditLog.project == caller.project)
    filters = ((AuditLog.action, action), (AuditLog.key_id, api_key_id), (AuditLog.object_id, object_id))
    for column, value in filters:
        statement = statement.where(column == value) if value is not None else statement
    if created_after is not None:
        statement = statement.where(AuditLog.created_at > datetime.fromtimestamp(created_after, UTC))
    if created_before is not None:
        statement = statement.where(AuditLog.created_at < datetime.fromtimestamp(created_before, UTC))

    with db.read() as session:
        rows, more = keyset(session, statement, AuditLog, within=of_project, after=after, limit=limit, order=order)
    return AuditLogList.page([AuditLogObject.of(row) for row in rows], more=more)
