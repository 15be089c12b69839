"""Gives every request an id, the caller's own or a new one, which the response and the log carry."""

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

#: Anything else could break a log line or a header.
_ACCEPTED = re.compile(r"[A-Za-z0-9_.:-]{8,128}")


class RequestId:
    """Sets `request.state.request_id` and the header `x-request-id` of the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _ACCEPTED.fullmatch(sent) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with bound_contextvars(request_id=request_id):  # in every log line of this request
            await self.app(scope, receive, send_with_id)


def request_id_of(scope: Scope) -> str:
    """The id of this request."""
    return str(scope["state"]["request_id"])
