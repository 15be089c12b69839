"""Adds a row to the audit log in every write transaction of a request, as a part of that transaction.

So no change is without its row, no row without its change, and no route can forget it.
"""

from dataclasses import replace

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.audit.tables import AuditLog
from app.auth.audited_action import CURRENT_ACTION, AuditedAction
from app.db import Database, new_id, now


def record_changes(db: Database) -> None:
    """Makes every write transaction of this database record the action that it belongs to."""
    event.listen(db.writers, "after_flush", _remember_created)
    event.listen(db.writers, "before_commit", _record)


def record(session: Session, action: AuditedAction) -> None:
    """Adds the row of one action to the transaction."""
    row = AuditLog(
        id=new_id("audit"), created_at=now(session), action=action.action, project=action.project, role=action.role
    )
    row.object_id, row.key_id, row.key_name = action.object_id, action.key_id, action.key_name
    row.address, row.request_id = action.address, action.request_id
    session.add(row)


def _remember_created(session: Session, _flush: object) -> None:
    """The first row that a transaction inserts is the object of an action that creates one."""
    for row in session.new:
        session.info.setdefault("created", getattr(row, "id", None))


def _record(session: Session) -> None:
    action = CURRENT_ACTION.get()
    if action is None:
        return
    session.flush()  # so that `_remember_created` has seen what was inserted
    record(session, action if action.object_id else replace(action, object_id=session.info.get("created")))
