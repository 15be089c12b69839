"""Stores secrets, and finds the one that a request to another service needs."""

import json
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.errors import Conflict, InvalidRequest, NotFound
from app.secrets.kinds import fields_of
from app.secrets.schemas import SecretSet
from app.secrets.tables import Secret
from app.vault import Vault

#: Secrets per project.
MAX_SECRETS: Final = 100


def find(session: Session, project: str, name: str) -> Secret:
    """The project's secret with this name. Raises NotFound."""
    row = session.scalar(select(Secret).where(Secret.project == project, Secret.name == name))
    if row is None:
        raise NotFound(f"no secret {name!r} in this project", param="secret_name")
    return row


def put(session: Session, vault: Vault, project: str, wanted: SecretSet) -> Secret:
    """Stores a new secret, or gives the one with this name its new value. Raises Conflict for another of its scope."""
    fields = fields_of(wanted.kind, wanted.value)
    mine = select(Secret).where(Secret.project == project)
    row = session.scalar(mine.where(Secret.name == wanted.name).with_for_update())
    same = mine.where(Secret.kind == wanted.kind, Secret.scope == wanted.scope, Secret.name != wanted.name)
    if (other := session.scalar(same)) is not None:
        about = f"for {wanted.scope!r}" if wanted.scope else "for everything"
        message = (
            f"{other.name!r} is this project's {wanted.kind} secret {about} already; give it the new value instead"
        )
        raise Conflict(message, param="scope", code="secret_exists")

    at = now(session)
    if row is None:
        if (session.scalar(select(func.count()).select_from(mine.subquery())) or 0) >= MAX_SECRETS:
            raise InvalidRequest(f"a project may have {MAX_SECRETS} secrets at most", code="too_many_secrets")
        row = Secret(id=new_id("secret"), project=project, created_at=at, name=wanted.name)
        session.add(row)
    row.kind, row.scope, row.updated_at = wanted.kind, wanted.scope, at
    row.sealed = vault.seal(json.dumps(fields).encode(), row_id=row.id)
    session.info.setdefault("created", row.id)  # for the audit log, also where a value is replaced
    return row
