"""Every write transaction of a request leaves its line in the audit log, as a part of the transaction.

So there is no line without the change, no change without its line, and no route that forgets.
"""

from dataclasses import replace

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.audit.tables import AuditLog
from app.auth.act import ACT, Act
from app.db import Database, new_id, now


def attend(db: Database) -> None:
    """Has every write transaction of this database record the act that it belongs to."""
    event.listen(db.writers, "after_flush", _notice)
    event.listen(db.writers, "before_commit", _record)


def record(session: Session, act: Act) -> None:
    row = AuditLog(id=new_id("audit"), created_at=now(session), action=act.action, project=act.project, role=act.role)
    row.object_id, row.key_id, row.key_name = act.object_id, act.key_id, act.key_name
    row.address, row.request_id = act.address, act.request_id
    session.add(row)


def _notice(session: Session, _flush: object) -> None:
    """The first row that a transaction makes is the object of an act that makes one."""
    for row in session.new:
        session.info.setdefault("made", getattr(row, "id", None))


def _record(session: Session) -> None:
    act = ACT.get()
    if act is None:
        return
    session.flush()  # what was made has been noticed by now
    record(session, act if act.object_id else replace(act, object_id=session.info.get("made")))
