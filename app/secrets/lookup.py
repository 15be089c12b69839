"""Finds and opens the secret that a request to another service needs."""

import json
from collections.abc import Sequence

from sqlalchemy import select

from app.db import Database
from app.secrets.kinds import OpenedSecret, SecretKind
from app.secrets.tables import Secret
from app.vault import Vault


def secret_for(
    db: Database, vault: Vault, project: str, kind: SecretKind, *, scopes: Sequence[str]
) -> OpenedSecret | None:
    """The project's secret of a kind for what `scopes` name, the narrowest first; None where it has no such secret.

    One without a scope is for everything. Raises VaultClosed where this machine lacks the key file.
    """
    with db.read() as session:
        rows = session.scalars(select(Secret).where(Secret.project == project, Secret.kind == kind))
        by_scope = {row.scope: row for row in rows}
    for scope in (*scopes, ""):
        if row := by_scope.get(scope):
            return OpenedSecret(row.name, json.loads(vault.open(row.sealed, row_id=row.id)))
    return None
