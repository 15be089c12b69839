"""Requests to tracking servers, with their errors explained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from app.jsontypes import JsonDict
from worker.supervisor.sources.arriving import Later, SourceRefused

_TIMEOUT: Final = httpx2.Timeout(60.0, connect=15.0)
#: Points of a request: each kind of server takes as many.
BATCH: Final = 1000


def client(place: str, **options: Any) -> httpx2.Client:
    """A client of the server at `place` that goes nowhere else: no proxies of an environment, no redirects."""
    return httpx2.Client(base_url=place, trust_env=False, follow_redirects=False, timeout=_TIMEOUT, **options)


@dataclass(frozen=True, slots=True)
class TrackingServer:
    """Requests to one tracking server, and what its answers mean."""

    client: httpx2.Client
    #: The name of the project's secret; empty without one.
    secret: str
    #: The kind of the secret that helps, and how the server is called.
    kind: str = "mlflow"
    called: str = "MLflow"
    #: What is said, beside 401 and 403, where a login is missing or wrong.
    login_words: str = ""

    def ask(self, method: str, path: str, *, unless: str = "", **content: Any) -> JsonDict | None:
        """The answer's JSON; None where the server refuses with the code `unless`. Raises SourceRefused or Later."""
        host = self.client.base_url.host
        try:
            answer = self.client.request(method, path, **content)
        except (httpx2.TransportError, OSError) as error:
            raise Later(f"{host} does not answer: {str(error) or type(error).__name__}") from None
        body = _json(answer) or {}
        if answer.is_success and not body.get("errors"):
            return body
        if unless and body.get("error_code") == unless:
            return None
        raise self._failure(answer.status_code, path, _reason(body))

    def _failure(self, status: int, path: str, reason: str) -> Exception:
        host = self.client.base_url.host
        said = f"{host} answers {status}"
        if status in (401, 403) or (self.login_words and self.login_words in reason):
            who = f"refuses this project's secret {self.secret!r}" if self.secret else "wants a login"
            message = f"{host} {who}; `permafrost secrets set NAME --kind {self.kind} --scope {host}` sets one"
            return SourceRefused(message, code="secret_refused")
        if status >= 500 or status in (408, 425, 429):
            return Later(said)
        reason = reason or f"this is no {self.called} server"
        return SourceRefused(f"{said} to {path}: {reason[:300]}", code="destination_refused")


def bearer(header: str, value: str) -> Callable[[httpx2.Request], httpx2.Request]:
    """An `auth` that sets one header."""

    def signed(request: httpx2.Request) -> httpx2.Request:
        request.headers[header] = value
        return request

    return signed


def _json(answer: httpx2.Response) -> JsonDict | None:
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _reason(body: JsonDict) -> str:
    """What the server says for itself, wherever its kind puts it."""
    first = (body.get("errors") or [{}])[0] if isinstance(body.get("errors"), list) else {}
    said = body.get("message") or body.get("error") or (first.get("message") if isinstance(first, dict) else first)
    return str(said or "")
