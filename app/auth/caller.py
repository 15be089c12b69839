"""Who calls: an API key becomes a Caller (project, role). With PERMAFROST_AUTH=off, on loopback, everyone is admin."""

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from app.auth import api_keys
from app.auth.act import ACT, Act
from app.auth.cache import KeyRing
from app.auth.rate_headers import COUNTED
from app.auth.rates import Rates
from app.auth.tables import Key
from app.db import Database
from app.errors import Forbidden, Unauthenticated
from app.http.dependencies import backends
from app.http.query_params import refuse_unknown
from app.settings import Settings

Role = Literal["admin", "writer", "reader"]

_REACH: Final = {"reader": 0, "writer": 1, "admin": 2}
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Documents the scheme in OpenAPI; the header is judged by `caller`.
bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key, as `Authorization: Bearer <key>`.")


@dataclass(frozen=True, slots=True)
class Caller:
    project: str
    role: Role
    key_id: str | None = None
    key_name: str | None = None

    def must(self, role: Role) -> None:
        """Raises unless the caller's role reaches as far as `role`."""
        if _REACH[self.role] < _REACH[role]:
            raise Forbidden(f"this needs a key with the role {role}; this one has the role {self.role}")


ANYONE = Caller(project="default", role="admin")


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """What this process knows of keys and of how fast they ask. On `app.state.doorkeeper`."""

    ring: KeyRing
    rates: Rates


async def caller(
    request: Request, presented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """A coroutine, so that what it sets for the request's context is there in the endpoint."""
    who = ANYONE
    if backends(request).settings.auth_required:
        keeper = cast(Doorkeeper, request.app.state.doorkeeper)
        key = await _key(request, keeper.ring, presented.credentials if presented else _by_browser(request))
        keeper.ring.used(key.id)
        keeper.rates.take(_counted(request, key.id))
        who = Caller(key.project, cast(Role, key.role), key_id=key.id, key_name=key.name)
    if request.scope["query_string"]:
        refuse_unknown(request)
    ACT.set(None if request.method in _READS else _act(request, who))
    return who


Who = Annotated[Caller, Depends(caller)]


def refuse_open_doors(settings: Settings) -> None:
    """Raises SystemExit, with what to do, when the service would be open to the network, or closed to everyone."""
    if settings.auth == "off" and not settings.on_loopback:
        raise SystemExit(
            f"PERMAFROST_AUTH=off is for loopback addresses only, and PERMAFROST_HOST is {settings.host}: "
            "a job API without keys lets anyone run training here"
        )
    if settings.auth_required and _keyless(settings):
        raise SystemExit(
            "with PERMAFROST_AUTH=required, the default beyond loopback, this service asks for API keys, "
            "and there is none that could be used. Make the first one with\n"
            "    permafrost keys create --project default --role admin --name first"
        )


def _keyless(settings: Settings) -> bool:
    db = Database(settings.database)  # its own: a process may fork after this, and must not take connections along
    try:
        with db.read() as session:
            return not (inspect(session.connection()).has_table(Key.__tablename__) and api_keys.any_usable(session))
    except SQLAlchemyError:  # the database is away: /readyz tells, and every request asks it for its key anyway
        return False
    finally:
        db.close()


async def _key(request: Request, ring: KeyRing, presented: str) -> Key:
    """One message for every reason: a stranger learns nothing of which keys there are or were."""
    key = ring.remembered(presented) or await run_in_threadpool(ring.look_up, presented)
    if key is None:
        message = (
            "an API key is needed, as `Authorization: Bearer pf_...`; none was sent, or the one that was is wrong, "
            "expired or revoked"
        )
        # Browsers ask their user for a name and a password then; other clients must not be led into it.
        scheme = "Basic" if "text/html" in request.headers.get("accept", "") else "Bearer"
        raise Unauthenticated(message, headers={"www-authenticate": f'{scheme} realm="permafrost"'})
    return key


def _by_browser(request: Request) -> str:
    """The key as the password of HTTP Basic, for pages. Reads alone: browsers send it with whatever a page asks for."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic" or request.method not in _READS:
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _counted(request: Request, key_id: str) -> str:
    request.scope[COUNTED] = key_id
    return key_id


def _act(request: Request, who: Caller) -> Act:
    route: Any = request.scope.get("route")
    named = list(request.path_params.values())
    return Act(
        action=str(getattr(route, "operation_id", None) or request.method),
        project=who.project,
        role=who.role,
        object_id=str(named[-1])[:256] if named else None,
        key_id=who.key_id,
        key_name=who.key_name,
        address=request.client.host[:64] if request.client else None,
        request_id=request.scope.get("state", {}).get("request_id"),
    )
