"""One log line for every request, and the counters behind /metrics."""

import time
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import tracing
from app.http.head_requests import original_method
from app.http.request_id import request_id_of
from app.http.telemetry import REQUEST_SECONDS, REQUESTS
from app.tracing import TraceSpan

#: Methods with a counter each. A request may name any word as its method; all unknown ones share a counter.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})

log = structlog.get_logger("app.http")


class AccessLog:
    """Logs and counts each request when it has ended, whether it was answered or broke."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        status, started = 0, time.perf_counter()
        span = _begin(scope)

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with tracing.serving(span):
                await self.app(scope, receive, send_and_note_status)
        finally:
            _record(scope, status=status, seconds=time.perf_counter() - started)
            _end(span, scope, status)


def _begin(scope: Scope) -> TraceSpan:
    """The span of this request, which goes on with its caller's trace. Probes and scrapes have none."""
    if not tracing.enabled() or scope["path"] in _PROBES:
        return TraceSpan()
    sent = Headers(scope=scope).get("traceparent", "")
    parent = sent if len(sent) == tracing.CHARACTERS else None
    return tracing.begin(scope["method"], parent=parent, role="server", request_id=request_id_of(scope))


def _end(span: TraceSpan, scope: Scope, status: int) -> None:
    """By the route and not by the path, which has ids in it."""
    route, method = getattr(scope.get("route"), "path", "unknown"), original_method(scope)
    span.rename(f"{method if method in _METHODS else 'other'} {route}")
    span.note(**{"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= 500 or not status:
        span.fail("the request was not answered" if not status else f"answered with {status}")
    span.end()


def _record(scope: Scope, *, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unknown")
    method = original_method(scope)
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
        request_id=request_id_of(scope),
    )
