"""Renders every error in OpenAI's envelope.

With `Accept: application/problem+json` the same error is an RFC 9457 problem document with the envelope inside.
"""

import http
import json
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db import is_full, is_unavailable
from app.errors import DatabaseUnavailable, HttpError, OutOfSpace, PermafrostError
from app.http.head_requests import original_method
from app.http.headers import wants_page, wants_problem
from app.http.request_id import request_id_of
from app.http.validation import explain

log = structlog.get_logger("app.http")

#: Errors of the framework: code and message by status.
_FRAMEWORK_ERRORS: Final = {
    400: ("invalid_body", "the body could not be read: it is not UTF-8 JSON, or is nested too deeply"),
    404: ("unknown_url", "Unknown URL: {method} {path}; {hint}"),
    405: ("method_not_allowed", "{method} is not allowed on {path}; see the Allow header"),
    408: ("request_timeout", "{detail}"),
    413: ("request_too_large", "{detail}"),
}

_SERVE: Final = "this service trains models and does not run them: /guide/openai#serving-a-result has servers that do"
#: Parts of OpenAI's API that are not offered: how their addresses begin, and what there is instead.
_NOT_OFFERED: Final = {
    **dict.fromkeys((f"/v1/{name}" for name in ("chat", "completions", "responses", "embeddings", "batches")), _SERVE),
    "/v1/evals": "evaluations are not offered: a job's validation_file gives loss and metrics at every evaluation",
    "/v1/fine_tuning/alpha/graders": "reinforcement and its graders are not offered: method is supervised or dpo",
    "/v1/fine_tuning/checkpoints": "checkpoints are not shared: a key of their project reads them as models",
}


def install(app: FastAPI) -> None:
    """Renders every way in which a request can fail with the envelope."""
    app.add_exception_handler(PermafrostError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(SQLAlchemyError, _database_error)


def render(error: PermafrostError, request: Request) -> Response:
    """The error as a response: a page where a browser requested one, else the envelope or a problem document."""
    error_page = getattr(request.app.state, "error_page", None)
    if error_page is not None and wants_page(request):
        page: Response = error_page(request, error)
        return page
    body: dict[str, Any] = {"error": error.to_json()}
    media_type = "application/json"
    if wants_problem(request.headers.get("accept", "")):
        media_type = "application/problem+json"
        body = {
            "type": f"/guide/errors/{error.code}" if error.code else "about:blank",
            "title": http.HTTPStatus(error.status).phrase,
            "status": error.status,
            "detail": error.message,
            "instance": request.url.path,
            **body,
        }

    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return Response(content, error.status, dict(error.headers), media_type)


class UnhandledErrors:
    """Answers 500 with the request id, and logs the traceback, when the application raises an unexpected error."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = False

        async def send_and_note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_start)
        except Exception:
            request_id = request_id_of(scope)
            log.exception("request failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if started:  # a part of the response is sent: the connection can only be cut
                raise
            error = PermafrostError(
                f"The server had an error while processing the request; report {request_id} to its operator",
                code="internal_error",
            )
            await render(error, Request(scope))(scope, receive, send)


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PermafrostError)
    return render(error, request)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(explain(error, request), request)


async def _database_error(request: Request, error: Exception) -> Response:
    """A database that is full, away or busy is for the operator to fix, and the request may be repeated later."""
    assert isinstance(error, SQLAlchemyError)
    if isinstance(error, DBAPIError) and is_full(error):
        return render(OutOfSpace("the database"), request)
    if not is_unavailable(error):
        raise error  # a bug: UnhandledErrors answers 500

    log.warning("the database is unavailable", request_id=request_id_of(request.scope), error=str(error))
    return render(DatabaseUnavailable(), request)


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the framework: unknown route, wrong method, a body that is too large or incomplete."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request, request.url.path))

    code, template = _FRAMEWORK_ERRORS.get(error.status_code, ("http_error", "{detail}"))
    message = template.format(
        method=original_method(request.scope), path=request.url.path, hint=_hint(request), detail=error.detail
    )
    return render(HttpError(error.status_code, message, code=code, headers=headers), request)


def allowed_methods(request: Request, path: str) -> list[str]:
    """All methods that some route takes at this path."""
    methods = {
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        for route in request.app.routes
        if route.matches({**request.scope, "path": path, "method": method})[0] is Match.FULL
    }
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _hint(request: Request) -> str:
    """The URL that was probably meant (one `/v1`, no slash at the end), or what there is instead of one of OpenAI's."""
    path = request.url.path
    variants = (path.rstrip("/"), f"/v1{path}".rstrip("/"), path.replace("/v1/v1/", "/v1/").rstrip("/"))
    likely = next((each for each in variants if each != path and allowed_methods(request, each)), None)
    if likely:
        return f"did you mean {likely}?"
    instead = (hint for part, hint in _NOT_OFFERED.items() if f"{path}/".startswith(f"{part}/"))
    return next(instead, "the endpoints are listed at /docs")
