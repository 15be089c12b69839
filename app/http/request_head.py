"""A limit on the head of a request (request line and headers): 431 instead of endless headers."""

import json
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import HttpError
from app.http.errors import render

MAX_HEAD_BYTES: Final = 64 << 10
#: After a 431 at the connection, so much and for so long is read and dropped, so that the client gets to read it: data
#: that is still unread when a connection closes resets it.
_DROPPED_BYTES: Final = 16 << 20
_DROPPING_SECONDS: Final = 5.0

log = structlog.get_logger("app.http")


def _too_large() -> HttpError:
    message = f"the request's head, its URL and headers, is larger than {MAX_HEAD_BYTES:,} bytes"
    return HttpError(431, message, code="request_head_too_large", headers={"connection": "close"})


class HeadLimit:
    """Refuses complete heads beyond the limit, which arrived so fast that the server did not stop them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _head_bytes(scope) > MAX_HEAD_BYTES:
            await render(_too_large(), Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _head_bytes(scope: Scope) -> int:
    url = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    return url + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


class HeadLimitProtocol(H11Protocol):
    """uvicorn's protocol, which stops reading a head at the limit, with a 431 that reaches the client."""

    _dropped: int | None = None  # bytes since a 431 was sent

    def data_received(self, data: bytes) -> None:
        if self._dropped is None:
            super().data_received(data)
            return
        self._dropped += len(data)
        if self._dropped > _DROPPED_BYTES:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called for whatever h11 cannot parse; what it had not parsed by then tells a head that is too large."""
        if len(self.conn.trailing_data[0]) <= MAX_HEAD_BYTES:
            super().send_400_response(msg)
            return

        log.warning("a request's head is too large", client=self.client)
        self.transport.write(_raw_response(_too_large()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._dropped = 0
        self.loop.call_later(_DROPPING_SECONDS, self.transport.close)


def _raw_response(error: HttpError) -> bytes:
    body = json.dumps({"error": error.to_json()}).encode()
    head: dict[str, Any] = {"content-type": "application/json", "content-length": len(body), "connection": "close"}
    lines = [f"HTTP/1.1 {error.status} Request Header Fields Too Large", *(f"{name}: {head[name]}" for name in head)]
    return "\r\n".join([*lines, "", ""]).encode() + body


#: uvicorn's options. Its own choice is another parser, wherever that is installed, with no limit on a head.
PARSER: Final[dict[str, Any]] = {"http": HeadLimitProtocol, "h11_max_incomplete_event_size": MAX_HEAD_BYTES}
