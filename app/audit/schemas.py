"""Payloads of the audit log."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.audit.tables import AuditLog
from app.paging.keyset import Page


class Actor(BaseModel):
    """The key that made the change, as it was then. Without an id: a service without keys, or the command line."""

    api_key_id: str | None = None
    name: str | None = None
    role: Literal["admin", "writer", "reader"]
    ip_address: str | None = None


class AuditLogObject(BaseModel):
    """One change, and the key that made it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "audit-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "object": "audit_log",
                    "created_at": 1760000000,
                    "action": "cancelFineTuningJob",
                    "object_id": "ftjob-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "actor": {"api_key_id": "pf_k3v9x0ab", "name": "ci", "role": "writer", "ip_address": "10.0.0.7"},
                    "request_id": "req_5f0c1d2e3a4b5c6d7e8f9a0b",
                }
            ]
        }
    )

    id: str
    object: Literal["audit_log"] = "audit_log"
    created_at: int = Field(description="Unix time in seconds.")
    action: str = Field(description="The operationId of the route; `keys.create` and `keys.revoke` for commands.")
    object_id: str | None = Field(description="Id of what was created, changed or deleted.")
    actor: Actor
    request_id: str | None = Field(description="The `x-request-id` header of the response.")

    @classmethod
    def of(cls, row: AuditLog) -> "AuditLogObject":
        actor = {"api_key_id": row.key_id, "name": row.key_name, "role": row.role, "ip_address": row.address}
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            action=row.action,
            object_id=row.object_id,
            actor=Actor.model_validate(actor),
            request_id=row.request_id,
        )


class AuditLogList(Page):
    data: list[AuditLogObject]
