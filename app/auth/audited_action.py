"""The change that the running request makes, as the audit log will record it."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditedAction:
    """An operation, its object and its actor. `object_id` is None for an object that the operation creates."""

    action: str
    project: str
    role: str
    object_id: str | None = None
    key_id: str | None = None
    key_name: str | None = None
    address: str | None = None
    request_id: str | None = None


#: The action of the running request; None for reads and outside of requests.
CURRENT_ACTION: ContextVar[AuditedAction | None] = ContextVar("audited_action", default=None)
