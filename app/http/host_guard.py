"""Protects a service without keys, which trusts this machine, from web pages in this machine's browsers.

A page can point its own name at 127.0.0.1 (DNS rebinding), or post a form there. In both cases the browser sends the
page's name as Host or as Origin.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Forbidden
from app.http.errors import render

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostGuard:
    """Refuses requests whose Host, and changes whose Origin, is neither this machine nor in `trusted`."""

    def __init__(self, app: ASGIApp, *, trusted: str) -> None:
        self.app = app
        self.trusted = {host for name in trusted.split(",") if (host := name.strip().lower())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (name := self._untrusted(Request(scope))) is not None:
            message = (
                f"without API keys this service answers only this machine, and not the host {name!r}; "
                "name more hosts in PERMAFROST_TRUSTED_HOSTS, or require keys with PERMAFROST_AUTH=required"
            )
            await render(Forbidden(message, code="untrusted_host"), Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _untrusted(self, request: Request) -> str | None:
        names = [_host(f"//{request.headers.get('host', '')}")]
        if request.method not in _READS and "origin" in request.headers:
            names.append(_host(request.headers["origin"]))
        return next((name for name in names if not self._trusted(name)), None)

    def _trusted(self, name: str) -> bool:
        if name in self.trusted or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            # A name without a dot is not in public DNS, so no page can have it.
            return name != "null" and "." not in name and ":" not in name


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or ("null" if url == "null" else "")).rstrip(".")
    except ValueError:
        return url
