"""Signing in by the provider: the way there, the way back, and the choice of a project for who has several."""

import base64
import hmac
import re
import time
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from app.auth import sessions
from app.auth.audited_action import CURRENT_ACTION, AuditedAction
from app.auth.person import PROJECT_COOKIE, roles
from app.auth.provider import CALLBACK, Provider, ProviderAway, SignInAttempt, SignInRefused, VouchedFor
from app.db import Database
from app.http.dependencies import Config, Db
from app.pages.login import local, sign_in_page, with_session
from app.pages.own_pages import FROM_OWN_PAGE
from app.settings import PROJECT_NAME, Settings
from app.vault import Vault, VaultClosed

log = structlog.get_logger("app.sign_in")

router = APIRouter(include_in_schema=False)

#: The attempt, sealed, for as long as somebody needs to find the password.
_COOKIE: Final = "permafrost_sign_in"
_SECONDS: Final = 600
_SEALED_AS: Final = "sign-in"
_AGAIN: Final = "This sign-in was begun in another browser, or more than ten minutes ago. Begin it again here."


class ProviderAnswer(BaseModel):
    """The query with which the provider sends the browser back; some add parameters of their own."""

    state: Annotated[str, Field(max_length=256)] = ""
    code: Annotated[str, Field(max_length=4096)] = ""
    error: Annotated[str, Field(max_length=256)] = ""
    iss: Annotated[str, Field(max_length=2048)] = ""


@router.get("/login/provider", operation_id="beginSignIn")
async def begin(request: Request, settings: Config, next: str = "/") -> Response:
    """Sends the browser to the provider, with a cookie by which it is known when it comes back."""
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return RedirectResponse("/login", 303)
    attempt = SignInAttempt.begin(local(next), seconds=_SECONDS)
    try:
        url = await provider.authorization_url(attempt)
    except ProviderAway as error:
        return _refusal(request, str(error), 502, attempt.next)

    answer = RedirectResponse(url, 303)
    sealed = Vault(settings.webhook_key_path).seal(attempt.to_bytes(), row_id=_SEALED_AS)
    text = base64.urlsafe_b64encode(sealed).decode()
    secure = settings.public_url.startswith("https:")
    answer.set_cookie(_COOKIE, text, max_age=_SECONDS, path="/login", httponly=True, samesite="lax", secure=secure)
    return answer


@router.get(CALLBACK, operation_id="finishSignIn")
async def finish(request: Request, db: Db, settings: Config, said: Annotated[ProviderAnswer, Query()]) -> Response:
    """Gives the browser a session, if the provider vouches for its person and a group of theirs has a role here."""
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return RedirectResponse("/login", 303)
    attempt = _attempt(request, settings)
    if attempt is None or not hmac.compare_digest(attempt.state.encode(), said.state.encode()):
        return _refusal(request, _AGAIN, 403, "/")
    try:
        if said.iss and said.iss != settings.oidc_issuer:  # RFC 9207
            raise SignInRefused("This answer is not from the sign-in provider of this service.")
        if said.error or not said.code:
            raise SignInRefused(_denied(said.error))
        vouched = await provider.redeem(said.code, attempt)
        token = await run_in_threadpool(_begin, request, db, settings, vouched)
    except SignInRefused as refused:
        return _refusal(request, str(refused), 403, attempt.next)
    except ProviderAway as away:
        return _refusal(request, str(away), 502, attempt.next)

    answer = with_session(attempt.next, token, secure=settings.public_url.startswith("https:"))
    answer.delete_cookie(_COOKIE, path="/login", httponly=True, samesite="lax")
    return answer


@router.post("/login/project", dependencies=[FROM_OWN_PAGE], operation_id="chooseProject")
async def choose_project(settings: Config, project: Annotated[str, Form(max_length=64)] = "") -> Response:
    """Shows the pages of another project from now on; of one without a role for this person, nothing changes."""
    answer = RedirectResponse("/", 303)
    if not re.fullmatch(PROJECT_NAME, project):
        return answer
    seconds, secure = int(sessions.LASTS.total_seconds()), settings.public_url.startswith("https:")
    answer.set_cookie(PROJECT_COOKIE, project, max_age=seconds, httponly=True, samesite="lax", secure=secure)
    return answer


def _attempt(request: Request, settings: Settings) -> SignInAttempt | None:
    """The attempt that this browser has begun, if it was not too long ago."""
    try:
        sealed = base64.urlsafe_b64decode(request.cookies.get(_COOKIE, ""))
        attempt = SignInAttempt.from_bytes(Vault(settings.webhook_key_path).open(sealed, row_id=_SEALED_AS))
    except (ValueError, VaultClosed):
        return None
    return attempt if attempt.until > time.time() else None


def _begin(request: Request, db: Database, settings: Settings, vouched: VouchedFor) -> str:
    """The new session's token. In the audit log it is an action of the person. Raises SignInRefused."""
    person = vouched.person
    may = roles(person.groups, settings.grants)
    if not may:
        log.warning("none of a person's groups has a role", person=person.label, groups=list(person.groups)[:20])
        raise SignInRefused(
            f"The provider knows you as {person.label}, and none of your groups there has a role here. "
            "Ask the operator of this service, who sets PERMAFROST_OIDC_GROUPS."
        )
    project = next(iter(may))
    action = AuditedAction(
        action="signIn",
        project=project,
        role=may[project],
        object_id=person.subject,
        key_name=person.label,
        address=request.client.host[:64] if request.client else None,
        request_id=request.scope.get("state", {}).get("request_id"),
    )
    CURRENT_ACTION.set(action)  # of this thread's copy of the context
    with db.write() as session:
        return sessions.begin_for(session, vouched, settings)


def _denied(error: str) -> str:
    shown = "".join(each for each in error if each.isalnum() or each in "_-.")[:60]
    return f"The sign-in provider did not let you in ({shown or 'no code'})."


def _refusal(request: Request, message: str, status: int, next: str) -> Response:
    log.warning("a sign-in failed", reason=message, status=status)
    return sign_in_page(request, status, next=next, wrong=message)
