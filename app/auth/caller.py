"""Authentication: an API key or a session becomes a Caller (project, role). Without keys every caller is admin."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from app.auth import api_keys, sessions
from app.auth.audited_action import CURRENT_ACTION, AuditedAction
from app.auth.key_cache import KeyCache
from app.auth.person import PROJECT_COOKIE, RANK, SignedIn
from app.auth.tables import ApiKey
from app.db import Database
from app.errors import Forbidden, Unauthenticated
from app.http.dependencies import backends
from app.http.query_params import refuse_unknown
from app.http.same_origin import from_elsewhere
from app.settings import Role, Settings

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Documents the scheme in OpenAPI; `caller` checks the header.
bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key, as `Authorization: Bearer <key>`.")


@dataclass(frozen=True, slots=True)
class Caller:
    project: str
    role: Role
    key_id: str | None = None
    key_name: str | None = None
    #: What the request presented; of a service without keys, nothing.
    via: Literal["nothing", "key", "session"] = "nothing"
    #: Of a person: every project in which the session may work.
    projects: tuple[str, ...] = ()

    def offered(self, role: Role) -> bool:
        """Whether a page offers what needs `role`: a browser with the key as a password can only read."""
        return self.via != "key" and self.may(role)

    def may(self, role: Role) -> bool:
        """Whether the caller's role includes `role`."""
        return RANK[self.role] >= RANK[role]

    def must(self, role: Role) -> None:
        """Raises Forbidden unless the caller's role includes `role`."""
        if not self.may(role):
            if self.projects:
                raise Forbidden(f"this needs the role {role}; you have the role {self.role} in {self.project}")
            raise Forbidden(f"this needs a key with the role {role}; this one has the role {self.role}")


#: Every caller of a service without keys.
LOCAL_ADMIN = Caller(project="default", role="admin")


async def caller(
    request: Request, presented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """A coroutine, so that the context variable that it sets is visible in the endpoint."""
    who = LOCAL_ADMIN
    if backends(request).settings.auth_required:
        token = "" if "authorization" in request.headers else request.cookies.get(sessions.COOKIE, "")
        found = await _session_key(request, token) if token else await _presented_key(request, presented)
        who = _person(request, found) if isinstance(found, SignedIn) else _holder(request, found, bool(token))
    request.state.caller = who  # for the pages' frame
    CURRENT_ACTION.set(None if request.method in _READS else _action(request, who))
    return who


def _holder(request: Request, key: ApiKey, in_session: bool) -> Caller:
    cast(KeyCache, request.app.state.key_cache).used(key.id)
    via: Any = "session" if in_session else "key"
    return Caller(key.project, cast(Role, key.role), key_id=key.id, key_name=key.name, via=via)


def _person(request: Request, person: SignedIn) -> Caller:
    project = person.project(request.cookies.get(PROJECT_COOKIE))
    projects = tuple(person.roles)
    return Caller(project, person.roles[project], key_name=person.label, via="session", projects=projects)


def _with_role(role: Role) -> Any:
    """A dependency that checks the role. Dependencies run before parameters and body are judged."""

    async def check(request: Request, who: Annotated[Caller, Depends(caller)]) -> Caller:
        who.must(role)
        if request.scope["query_string"]:
            refuse_unknown(request)
        return who

    return Depends(check)


#: The caller of an endpoint, which needs at least this role.
AsReader = Annotated[Caller, _with_role("reader")]
AsWriter = Annotated[Caller, _with_role("writer")]
AsAdmin = Annotated[Caller, _with_role("admin")]


def refuse_unsafe_exposure(settings: Settings) -> None:
    """Raises SystemExit if the service would be open to the network without keys, or if no usable key exists."""
    if settings.auth == "off" and not settings.on_loopback:
        raise SystemExit(
            f"PERMAFROST_AUTH=off is for loopback addresses only, and PERMAFROST_HOST is {settings.host}: "
            "a job API without keys lets anyone run training here"
        )
    if settings.auth_required and not settings.oidc_issuer and _keyless(settings):
        raise SystemExit(
            "with PERMAFROST_AUTH=required, the default beyond loopback, every request needs an API key, "
            "and no usable key exists. Create the first one with\n"
            "    permafrost keys create --project default --role admin --name first"
        )


def _keyless(settings: Settings) -> bool:
    db = Database(settings.database)  # its own: a process may fork after this, and must not take connections along
    try:
        with db.read() as session:
            return not (inspect(session.connection()).has_table(ApiKey.__tablename__) and api_keys.any_usable(session))
    except SQLAlchemyError:  # the database is away: /readyz reports it, and every request looks its key up there anyway
        return False
    finally:
        db.close()


async def _presented_key(request: Request, presented: HTTPAuthorizationCredentials | None) -> ApiKey | SignedIn:
    """The key that the request itself has: as a bearer's, or, for reads, as a password."""
    return await _key(request.app.state.key_cache, presented.credentials if presented else _basic_password(request))


async def _session_key(request: Request, token: str) -> ApiKey | SignedIn:
    """For whom a cookie stands. Browsers send cookies along unasked: changes must come from our own pages."""
    key = await _key(request.app.state.session_cache, token)
    if isinstance(key, SignedIn) and key.due(datetime.now(UTC)):
        key = await _renewed(request, token, key)
    trusted = backends(request).settings.trusted_hosts
    if request.method not in _READS and from_elsewhere(request, trusted=trusted) is not False:
        message = (
            "with a session's cookie, changes are made from this service's own pages alone; the request comes from "
            "another origin, or does not say from which (send a key as `Authorization: Bearer pf_...` instead)"
        )
        raise Forbidden(message, code="untrusted_origin")
    return key


async def _renewed(request: Request, token: str, person: SignedIn) -> ApiKey | SignedIn:
    """The same session, once the provider was asked about its person again."""
    cache: KeyCache = request.app.state.session_cache
    await request.app.state.renewal.renew(token, wait=person.overdue(datetime.now(UTC)))
    cache.forget(token)
    found = await _key(cache, token)
    if isinstance(found, SignedIn) and found.overdue(datetime.now(UTC)):
        raise _unauthenticated()
    return found


async def _key(cache: KeyCache, presented: str) -> ApiKey | SignedIn:
    key = cache.remembered(presented) or await run_in_threadpool(cache.look_up, presented)
    if key is None:
        raise _unauthenticated()
    return key


def _unauthenticated() -> Unauthenticated:
    """One message for every reason, so that a caller without a key cannot find out which keys exist or existed."""
    message = (
        "an API key is needed, as `Authorization: Bearer pf_...`; the request has none, or its key is wrong, "
        "expired or revoked"
    )
    return Unauthenticated(message, headers={"www-authenticate": 'Bearer realm="permafrost"'})


def _basic_password(request: Request) -> str:
    """The key as the password of HTTP Basic. Reads only: browsers attach it to requests of any page."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic" or request.method not in _READS:
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _action(request: Request, caller: Caller) -> AuditedAction:
    route: Any = request.scope.get("route")
    ids = list(request.path_params.values())
    return AuditedAction(
        action=str(getattr(route, "operation_id", None) or request.method),
        project=caller.project,
        role=caller.role,
        object_id=str(ids[-1])[:256] if ids else None,
        key_id=caller.key_id,
        key_name=caller.key_name,
        address=request.client.host[:64] if request.client else None,
        request_id=request.scope.get("state", {}).get("request_id"),
    )
