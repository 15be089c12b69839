"""/v1/secrets: what opens a project's models and data at other services. Values go in and never come out."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.auth.caller import AsAdmin, AsWriter
from app.http.dependencies import Config, Db
from app.http.json_body import JsonRoute
from app.openapi.prose import CONFLICT, ERRORS
from app.paging.keyset import AfterQuery, OrderQuery, keyset
from app.paging.tombstones import remove
from app.secrets import queries
from app.secrets.schemas import NAME, SecretDeleted, SecretList, SecretObject, SecretSet
from app.secrets.tables import Secret
from app.vault import Vault

router = APIRouter(prefix="/secrets", tags=["Secrets"], responses=ERRORS, route_class=JsonRoute)

SecretName = Annotated[str, Path(description="The secret's name.", pattern=NAME, examples=["hub"])]


@router.post("", operation_id="setSecret", summary="Set a secret", responses=CONFLICT)
def set_secret(secret: Annotated[SecretSet, Body()], caller: AsAdmin, db: Db, settings: Config) -> SecretObject:
    """Stores it encrypted; a name that exists gets the new value. Workers alone open it, for what it is about."""
    vault = Vault(settings.webhook_key_path)
    try:
        with db.write() as session:
            return SecretObject.of(queries.put(session, vault, caller.project, secret))
    except IntegrityError:  # another request stored one of this name or scope at the same moment, and is found now
        with db.write() as session:
            return SecretObject.of(queries.put(session, vault, caller.project, secret))


@router.get("", operation_id="listSecrets", summary="List secrets")
def list_secrets(
    caller: AsWriter,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "desc",
) -> SecretList:
    """Names, kinds and scopes, newest first."""
    statement = select(Secret).where(Secret.project == caller.project)
    with db.read() as session:
        rows, more = keyset(
            session, statement, Secret, tombstones_of=caller.project, after=after, limit=limit, order=order
        )
    return SecretList.page([SecretObject.of(row) for row in rows], more=more)


@router.get("/{secret_name}", operation_id="retrieveSecret", summary="Read a secret's description")
def retrieve_secret(secret_name: SecretName, caller: AsWriter, db: Db) -> SecretObject:
    """All but its value."""
    with db.read() as session:
        return SecretObject.of(queries.find(session, caller.project, secret_name))


@router.delete("/{secret_name}", operation_id="deleteSecret", summary="Delete a secret")
def delete_secret(secret_name: SecretName, caller: AsAdmin, db: Db) -> SecretDeleted:
    """Requests that are under way with it end as they would; no new one is made with it."""
    with db.write() as session:
        row = queries.find(session, caller.project, secret_name)
        remove(session, row)
    return SecretDeleted(id=row.id)
