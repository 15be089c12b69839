"""Signing in and out: a key that is given once becomes a session of the browser."""

from typing import Annotated, Any, Final, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from app.auth import api_keys, sessions
from app.auth.audited_action import CURRENT_ACTION, AuditedAction
from app.auth.key_cache import KeyCache
from app.auth.tables import ApiKey
from app.db import Database
from app.http.dependencies import Config, Db, backends
from app.pages.own_pages import FROM_OWN_PAGE
from app.pages.render import render_page

router = APIRouter(include_in_schema=False)

WRONG: Final = "This key is wrong, expired or revoked. `permafrost keys list` on the server shows those that are good."


@router.get("/login")
def login_page(request: Request, settings: Config, next: str = "/") -> Response:
    """Asks for a key. Without keys there is nothing to sign in to."""
    if not settings.auth_required:
        return RedirectResponse("/", 303)
    return sign_in_page(request, next=local(next))


@router.post("/login", dependencies=[FROM_OWN_PAGE], operation_id="signIn")
async def sign_in(
    request: Request,
    db: Db,
    settings: Config,
    key: Annotated[str, Form(max_length=512)] = "",
    next: Annotated[str, Form(max_length=2048)] = "/",
) -> Response:
    """Begins a session for a key that is good."""
    if not settings.auth_required:
        return RedirectResponse("/", 303)
    found = await run_in_threadpool(_begin, request, db, key.strip())
    if found is None:
        return sign_in_page(request, 403, next=local(next), wrong=WRONG)
    return with_session(local(next), found, secure=request.url.scheme == "https")


@router.post("/logout", dependencies=[FROM_OWN_PAGE], operation_id="signOut")
async def sign_out(request: Request, db: Db) -> Response:
    """Ends the session here and in the database."""
    token = request.cookies.get(sessions.COOKIE, "")
    if token:
        await run_in_threadpool(_end, db, token)
        cast(KeyCache, request.app.state.session_cache).forget(token)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(sessions.COOKIE, httponly=True, samesite="lax")
    return answer


def sign_in_page(request: Request, code: int = 200, **context: Any) -> Response:
    """The form for a key, and where there is one the way to the sign-in provider."""
    issuer = backends(request).settings.oidc_issuer
    return render_page(request, "login.html", code, provider=urlsplit(issuer).netloc, **context)


def with_session(path: str, token: str, *, secure: bool) -> Response:
    """Leads on to a page, with the session's cookie, which scripts cannot read and other sites' forms do not send."""
    answer = RedirectResponse(path, 303)
    seconds = int(sessions.LASTS.total_seconds())
    answer.set_cookie(sessions.COOKIE, token, max_age=seconds, httponly=True, samesite="lax", secure=secure)
    return answer


def local(path: str) -> str:
    """The path if it is one of this service, else the dashboard's: nobody is sent elsewhere by a link to /login."""
    fine = path.startswith("/") and not path.startswith(("//", "/login", "/logout")) and path.isprintable()
    return path if fine and "\\" not in path else "/"


def _begin(request: Request, db: Database, presented: str) -> str | None:
    """The new session's token. In the audit log it is an action of the key."""
    with db.read() as session:
        key = api_keys.find(session, presented)
    if key is None:
        return None
    CURRENT_ACTION.set(_action(request, key))  # of this thread's copy of the context
    with db.write() as session:
        return sessions.begin(session, key)


def _end(db: Database, token: str) -> None:
    with db.write() as session:
        sessions.end(session, token)


def _action(request: Request, key: ApiKey) -> AuditedAction:
    return AuditedAction(
        action="signIn",
        project=key.project,
        role=key.role,
        object_id=key.id,
        key_id=key.id,
        key_name=key.name,
        address=request.client.host[:64] if request.client else None,
        request_id=request.scope.get("state", {}).get("request_id"),
    )
