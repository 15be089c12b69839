"""Every answer that is not a success, in OpenAI's error envelope; and what surrounds each request: id, size limit, log.

`Accept: application/problem+json` gets the same error as an RFC 9457 problem, with the envelope inside.
"""

import asyncio
import difflib
import http
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db import is_full
from app.errors import InvalidRequest, OutOfSpace, PermafrostError
from app.http.head_requests import ASKED, Heads
from app.http.headers import wants_problem
from app.http.telemetry import REQUEST_SECONDS, REQUESTS

#: Bytes of a JSON body. Uploads raise it for themselves with `allow_body`.
MAX_JSON_BYTES: Final = 1 << 20
#: A client that sends nothing of its body for so long has gone, or means to hold the connection.
SILENCE_SECONDS = 60.0
_LIMIT_KEY: Final = "permafrost.body_limit"
#: A counter each. Any word can stand for a method in a request; words that nobody knows share one.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{8,128}")

log = structlog.get_logger("app.http")


def install(app: FastAPI) -> None:
    """Puts the envelope around every way in which a request can fail."""
    app.add_exception_handler(PermafrostError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_middleware(Surroundings)
    app.add_middleware(Heads)


def allow_body(request: Request, limit: int) -> None:
    """Raises this request's size limit, before its body is read."""
    request.scope[_LIMIT_KEY] = limit


def is_retry(request: Request) -> bool:
    """Whether the `openai` SDK says that it is repeating a request; it sends no idempotency key by itself."""
    return re.fullmatch(r"0*[1-9][0-9]*", request.headers.get("x-stainless-retry-count", "")) is not None


class Surroundings:
    """Outermost layer: request id, body limit, log and metrics, and an answer even when the code below breaks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        scope[_LIMIT_KEY] = MAX_JSON_BYTES
        status, started = 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, _limited(scope, receive), send_with_id)
        except Exception:
            log.exception("request failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if status:  # the answer is on its way already: all that is left is to cut it off
                raise
            problem = PermafrostError(
                f"The server had an error while processing the request; quote {request_id} to whoever runs it",
                code="internal_error",
            )
            await render(problem, Request(scope))(scope, receive, send_with_id)
        finally:
            _record(scope, status=status, seconds=time.perf_counter() - started, request_id=request_id)


def render(error: PermafrostError, request: Request) -> Response:
    """The error as an answer: envelope, or problem document with the envelope inside."""
    body: dict[str, Any] = {"error": error.to_json()}
    media_type = "application/json"
    if wants_problem(request.headers.get("accept", "")):
        media_type = "application/problem+json"
        body = {
            "type": f"urn:permafrost:error:{error.code or 'error'}",
            "title": http.HTTPStatus(error.status).phrase,
            "status": error.status,
            "detail": error.message,
            "instance": request.url.path,
            **body,
        }
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return Response(content, error.status, dict(error.headers), media_type)


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PermafrostError)
    return render(error, request)


async def _database_error(request: Request, error: Exception) -> Response:
    """A full disk is for the operator to mend, and the client may come again; anything else is our own fault."""
    assert isinstance(error, OperationalError)
    if not is_full(error):
        raise error
    return render(OutOfSpace("the database"), request)


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the framework: unknown route, wrong method, a body that is too large or torn."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400 and (packed := request.headers.get("content-encoding", "identity")) != "identity":
        message = f"the body must be sent as it is, without Content-Encoding: {packed}"
        return render(_with_status(415, message, code="unsupported_media_type"), request)
    code, template = _FRAMEWORK_ERRORS.get(error.status_code, ("http_error", "{detail}"))
    asked = {"method": _method(request.scope), "path": request.url.path, "hint": _hint(request)}
    message = template.format(**asked, detail=error.detail)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _methods(request, first=headers.get("Allow", ""))
    return render(_with_status(error.status_code, message, code=code, headers=headers), request)


def _methods(request: Request, *, first: str) -> str:
    """All that the URL takes: the framework names those of the `first` route with its path alone."""
    template = re.sub(r":\w+}", "}", getattr(request.scope.get("route"), "path", "") or "-")
    documented = request.app.openapi()["paths"].items()
    found = next((item for path, item in documented if path.endswith(template)), None)
    methods = {method.upper() for method in found} if found else set(first.split(", "))
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _hint(request: Request) -> str:
    """Another URL that was meant, by the usual slips: a slash at the end, `/v1` left out or given twice."""
    path = request.url.path
    slips = (path.rstrip("/"), f"/v1{path}".rstrip("/"), path.replace("/v1/v1/", "/v1/").rstrip("/"))
    known = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(each)) for each in request.app.openapi()["paths"]]
    meant = next((each for each in slips if each != path and any(re.fullmatch(one, each) for one in known)), None)
    return f"did you mean {meant}?" if meant else "the endpoints are listed at /docs"


async def _validation_error(request: Request, error: Exception) -> Response:
    """400, not the framework's 422: `param` is a dotted path, and `errors` lists every problem."""
    assert isinstance(error, RequestValidationError)
    if problem := _not_json(request, error):
        return render(problem, request)
    found = _merged(_problems(request, error))
    first = found[0]
    more = f" (and {len(found) - 1} more, see errors)" if len(found) > 1 else ""
    where = f"{first['field']}: " if first["field"] else ""
    problem = InvalidRequest(where + first["message"] + more, param=first["field"], code=first["code"], errors=found)
    return render(problem, request)


# ---- what was wrong with a body


def _not_json(request: Request, error: RequestValidationError) -> PermafrostError | None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    for each in error.errors():
        if each["type"] == "json_invalid":
            reason = each.get("ctx", {}).get("error", "cannot be parsed")
            return InvalidRequest(
                f"the body is not valid JSON: {reason} (character {each['loc'][-1]})", code="invalid_json"
            )
    if isinstance(error.body, bytes) and not (media_type == "application/json" or media_type.endswith("+json")):
        sent = f"not {media_type!r}" if media_type else "and the request names none"
        message = f"the body must be sent with Content-Type: application/json, {sent}"
        return _with_status(415, message, code="unsupported_media_type")
    return None


def _problems(request: Request, error: RequestValidationError) -> Iterator[dict[str, Any]]:
    for each in error.errors():
        place, *path = each["loc"]
        field = _dotted(path, error.body) if place == "body" else str(path[0])  # a parameter has a name and no path
        message = _message(request, each, field=field)
        yield {
            "line": None,
            "field": field or None,
            "code": _CODES.get(each["type"], "invalid_value"),
            "message": message,
        }


def _merged(problems: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a field: the branches of a union each have their own complaint about the same value."""
    found: dict[tuple[str | None, str], dict[str, Any]] = {}
    for each in problems:
        there = found.setdefault((each["field"], each["code"]), each)
        if there is not each and each["code"] == "invalid_value":
            wanted = each["message"].partition(", not ")[0].removeprefix("input should be ")
            there["message"] = there["message"].replace(", not ", f" or {wanted}, not ", 1)
    return list(found.values())


def _message(request: Request, problem: Mapping[str, Any], *, field: str) -> str:
    kind = problem["type"]
    if kind == "missing":
        return "this field is required" if field else "the request needs a JSON body"
    if kind == "extra_forbidden":
        name = str(problem["loc"][-1])
        names = _known_fields(request, problem["loc"][1:-1])
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(names)}" if names else ""
        return f"unknown field {name!r}{hint}"
    if not field and kind.startswith(("model_", "dict_")):
        return "the body must be a JSON object"
    text = str(problem["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    return text[:1].lower() + text[1:] + _given(problem.get("input"))


def _given(value: Any) -> str:
    if isinstance(value, str | int | float | bool) or value is None:
        shown = json.dumps(value, ensure_ascii=False)
        return f", not {shown}" if len(shown) <= 80 else ""
    return ""


def _dotted(path: list[Any], body: Any) -> str:
    """`("model", "torch", "kwargs")` as `model.kwargs`: union tags, which the body does not hold, are left out."""
    parts: list[str] = []
    value = body
    for position, part in enumerate(path):
        last = position == len(path) - 1
        if (
            isinstance(value, dict)
            and isinstance(part, str)
            and (part in value or (last and not _is_tag(part) and value.get("type") != part))
        ):
            parts.append(part if not parts else f".{part}")
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            parts.append(f"[{part}]")
            value = value[part]
    return "".join(parts)


def _is_tag(part: str) -> bool:
    """Names that pydantic puts into a location for the branch of a union: a class, a type or a function."""
    return (
        not part.isidentifier() or part[:1].isupper() or part in {"str", "int", "float", "bool", "dict", "list", "none"}
    )


def _known_fields(request: Request, path: tuple[Any, ...]) -> list[str]:
    route = request.scope.get("route")
    body_field = getattr(route, "body_field", None)
    if body_field is None:
        return []
    classes = _classes(body_field.field_info.annotation)
    for part in path:
        inner = [_classes(cls.model_fields[part].annotation) for cls in classes if part in cls.model_fields]
        if inner:
            classes = [cls for group in inner for cls in group]
        elif tagged := [cls for cls in classes if part in _tags(cls)]:
            classes = tagged
    return sorted({name for cls in classes for name in cls.model_fields})


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for inner in get_args(annotation) for cls in _classes(inner)]


def _tags(cls: type[BaseModel]) -> tuple[Any, ...]:
    return (cls.__name__, *(get_args(cls.model_fields["type"].annotation) if "type" in cls.model_fields else ()))


# ---- around a request


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Stops reading at the limit, before the first byte where Content-Length is beyond it, and when nothing comes."""
    read, more = 0, True

    async def limited() -> Message:
        nonlocal read, more
        limit = scope[_LIMIT_KEY]
        if read == 0 and content_length(scope) > limit:
            raise _too_large(limit)
        try:
            # Once the body is whole, streams wait here for the client to hang up, for as long as it likes.
            message = await asyncio.wait_for(receive(), SILENCE_SECONDS if more else None)
        except TimeoutError:
            raise HTTPException(408, f"nothing of the body came for {SILENCE_SECONDS:g} seconds") from None
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            more = bool(message.get("more_body", False))
            if read > limit:
                raise _too_large(limit)
        return message

    return limited


def _too_large(limit: int) -> HTTPException:
    """An HTTPException, since FastAPI turns anything else that is raised while it reads a body into a plain 400."""
    return HTTPException(413, f"the body is larger than the {limit:,} bytes that this endpoint takes")


def content_length(scope: Scope) -> int:
    """What the request announces, or 0."""
    value = Headers(scope=scope).get("content-length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else 0


def _request_id(headers: Headers) -> str:
    sent = headers.get("x-request-id", "")
    return sent if _CLIENT_REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(12)}"


def _record(scope: Scope, *, status: int, seconds: float, request_id: str) -> None:
    route = getattr(scope.get("route"), "path", "unknown")
    method = _method(scope)
    counted = method if method in _METHODS else "other"
    REQUESTS.labels(counted, route, str(status)).inc()
    REQUEST_SECONDS.labels(counted, route).observe(seconds)
    level = log.info if status < 500 else log.error
    level(
        "request",
        method=method,
        path=scope["path"],
        status=status,
        ms=round(seconds * 1e3, 1),
        request_id=request_id,
    )


def _method(scope: Scope) -> str:
    """As it was asked: a HEAD goes through the application as a GET."""
    return str(scope.get(ASKED, scope["method"]))


def _with_status(status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> PermafrostError:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    cls = type("HttpError", (PermafrostError,), {"status": status, "type": kind})
    error: PermafrostError = cls(message, code=code, headers=headers)
    return error


_FRAMEWORK_ERRORS: Final = {
    400: ("invalid_body", "the body could not be read: it is not UTF-8 JSON, or is nested too deeply"),
    404: ("unknown_url", "Unknown URL: {method} {path}; {hint}"),
    405: ("method_not_allowed", "{method} is not allowed on {path}; see the Allow header"),
    408: ("request_timeout", "{detail}"),
    413: ("request_too_large", "{detail}"),
}

_CODES: Final = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
