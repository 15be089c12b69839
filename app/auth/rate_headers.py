"""Tells on every answer to a key how many requests it has left. A 304 is not counted: asking politely costs nothing."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.rates import Rates

#: Where authentication leaves the key that a request was counted for.
COUNTED = "permafrost.counted"


class RateHeaders:
    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self.app = app
        self.rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_rate(message: Message) -> None:
            key = scope.get(COUNTED)
            if key is not None and message["type"] == "http.response.start":
                if message["status"] == 304:
                    self.rates.give_back(key)
                MutableHeaders(scope=message).update(self.rates.headers(key))
            await send(message)

        await self.app(scope, receive, send_with_rate)
