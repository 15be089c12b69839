"""Creates and changes webhook endpoints, and rotates their secrets."""

from datetime import timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.errors import InvalidRequest, NotFound
from app.vault import Vault
from app.webhooks import signing
from app.webhooks.addresses import AddressRefused, Reach, parse_url
from app.webhooks.schemas import EndpointCreate, EndpointUpdate
from app.webhooks.tables import Endpoint

#: Endpoints per project.
MAX_ENDPOINTS: Final = 100
_OVERLAP: Final = timedelta(hours=24)
#: A request within this time counts as a repetition when the SDK marks it as a retry.
_RETRY_WINDOW: Final = timedelta(minutes=2)


def find(session: Session, project: str, endpoint_id: str) -> Endpoint:
    """The project's endpoint with this id. Raises NotFound."""
    row = session.scalar(select(Endpoint).where(Endpoint.id == endpoint_id, Endpoint.project == project))
    if row is None:
        raise NotFound(f"no webhook endpoint {endpoint_id!r} in this project", param="webhook_endpoint_id")
    return row


def create(
    session: Session, vault: Vault, project: str, request: EndpointCreate, *, retried: bool
) -> tuple[Endpoint, str]:
    """The new endpoint and its secret, or those that an earlier try of the same request created."""
    own_endpoints = select(Endpoint).where(Endpoint.project == project)
    at = now(session)
    if retried:
        for row in session.scalars(own_endpoints.where(Endpoint.created_at > at - _RETRY_WINDOW)):
            if (row.name, row.url, row.event_types) == (request.name, request.url, list(request.event_types)):
                return row, _written(vault, row)
    if (session.scalar(select(func.count()).select_from(own_endpoints.subquery())) or 0) >= MAX_ENDPOINTS:
        raise InvalidRequest(f"a project may have {MAX_ENDPOINTS} webhook endpoints at most", code="too_many_endpoints")
    row = Endpoint(id=new_id("we"), project=project, created_at=at, updated_at=at, name=request.name, url=request.url)
    row.event_types = list(request.event_types)
    secret = signing.new_secret()
    row.secret, row.secret_hint = vault.seal(secret, row_id=row.id), signing.hint(secret)
    session.add(row)
    return row, signing.written(secret)


def change(session: Session, row: Endpoint, update: EndpointUpdate) -> None:
    """Apply the fields of an update; fields that are not given keep their values."""
    changes = update.model_dump(exclude_none=True)
    enabled = changes.pop("enabled", None)
    for field, value in changes.items():
        if getattr(row, field) != value:
            setattr(row, field, value)
            row.updated_at = now(session)
    if enabled is not None and enabled is not (row.disabled_at is None):
        row.updated_at = now(session)
        row.disabled_at = None if enabled else row.updated_at
        row.disabled_reason = None if enabled else "switched off"
        row.not_before = None


def rotate(session: Session, vault: Vault, row: Endpoint, *, keep: bool, retried: bool) -> str:
    """Create a new secret. With `keep`, the old one also signs for another day."""
    at = now(session)
    if retried and row.rotated_at is not None and row.rotated_at > at - _RETRY_WINDOW:
        # The answer to the first try was lost: another new secret would end the one that receivers still use.
        return _written(vault, row)
    secret = signing.new_secret()
    row.old_secret, row.old_secret_until = (row.secret, at + _OVERLAP) if keep else (None, None)
    row.secret, row.secret_hint = vault.seal(secret, row_id=row.id), signing.hint(secret)
    row.rotated_at = row.updated_at = at
    return signing.written(secret)


def check_url(url: str, reach: Reach) -> None:
    """Raise InvalidRequest for a URL that is refused without a look-up. Addresses are checked at every connection."""
    target = parse_url(url)
    if not target.secure and not reach.allowed:
        message = "url: must begin with https://; http:// works only for networks in PERMAFROST_WEBHOOK_ALLOW"
        raise InvalidRequest(message, param="url", code="invalid_url")
    try:
        reach.check(target.host, secure=target.secure)
    except ValueError:
        return  # a host name
    except AddressRefused:
        message = f"url: webhooks may not be sent to the address {target.host} (see PERMAFROST_WEBHOOK_ALLOW)"
        raise InvalidRequest(message, param="url", code="invalid_url") from None


def _written(vault: Vault, row: Endpoint) -> str:
    return signing.written(vault.open(row.secret, row_id=row.id))
