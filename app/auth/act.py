"""The act that the running request performs, as the audit log will record it."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody is about to do. `object_id` is None where the object is yet to be made."""

    action: str
    project: str
    role: str
    object_id: str | None = None
    key_id: str | None = None
    key_name: str | None = None
    address: str | None = None
    request_id: str | None = None


#: What the running request does; None for reads and outside of requests.
ACT: ContextVar[Act | None] = ContextVar("act", default=None)
