"""Posts a webhook: one look-up, the checked address, no redirects, no proxies, 15 s in all."""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from app.webhooks.addresses import AddressRefused, Reach, Resolve, Target, parse_url, resolve

TIMEOUT_SECONDS: Final = 15.0
_USER_AGENT: Final = "Permafrost-Webhooks/1"


@dataclass(frozen=True, slots=True)
class PostResult:
    """The result of a POST. The answer's body is not read: showing it would let users read from this network."""

    seconds: float
    status_code: int | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


class Sender:
    """Posts webhooks from any number of threads. `close` cuts off the running requests."""

    def __init__(
        self,
        reach: Reach,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._reach = reach
        self._resolve = resolve
        self._tls = tls
        self._seconds = seconds
        self._open: set[http.client.HTTPConnection] = set()

    def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> PostResult:
        """Post `body`. Errors of the receiver or the network are in the result, never raised."""
        started = time.monotonic()

        def took() -> float:
            return round(time.monotonic() - started, 3)

        target = parse_url(url)
        try:
            address = self._reach.choose(target, self._resolve)
        except AddressRefused:
            message = f"webhooks may not be sent to the address of {target.host}"
            return PostResult(took(), error=f"{message}; PERMAFROST_WEBHOOK_ALLOW lists allowed internal networks")
        except (OSError, UnicodeError) as error:
            return PostResult(took(), error=f"{target.host} cannot be resolved: {_reason(error)}")
        left = self._seconds - took()
        if left <= 0:
            return PostResult(took(), error=f"{target.host} took more than {self._seconds:g} s to resolve")
        try:
            status, retry_after = self._exchange(target, address, headers=headers, body=body, seconds=left)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return PostResult(took(), error=self._late(took()) or _reason(error))
        if late := self._late(took()):  # an answer that was cut off in its headers looks complete
            return PostResult(took(), error=late)
        return PostResult(took(), status_code=status, retry_after=retry_after)

    def close(self) -> None:
        for connection in list(self._open):
            _cut(connection)

    def _late(self, seconds: float) -> str | None:
        return f"no answer within {self._seconds:g} s" if seconds >= self._seconds else None

    def _exchange(
        self, target: Target, address: str, *, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> tuple[int, float | None]:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=seconds)
        with self._watched(connection, seconds=seconds):
            _connect(connection, address, target.port, seconds=seconds)
            if target.secure:
                self._secure(connection, target)
            fixed = {"Host": target.authority, "User-Agent": _USER_AGENT, "Content-Type": "application/json"}
            connection.request("POST", target.path, body=body, headers=fixed | dict(headers) | {"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, _seconds_of(answer.headers.get("retry-after"))

    def _secure(self, connection: http.client.HTTPConnection, target: Target) -> None:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        # The handshake follows the assignment, so that the timer can cut it off, too.
        secured = self._tls.wrap_socket(connection.sock, server_hostname=target.host, do_handshake_on_connect=False)
        connection.sock = secured
        secured.do_handshake()

    @contextlib.contextmanager
    def _watched(self, connection: http.client.HTTPConnection, *, seconds: float) -> Iterator[None]:
        """Close the connection after `seconds`: a receiver may send single bytes without end."""
        timer = threading.Timer(seconds, _cut, [connection])
        timer.daemon = True
        timer.start()
        self._open.add(connection)
        try:
            yield
        finally:
            timer.cancel()
            self._open.discard(connection)
            connection.close()


def _connect(connection: http.client.HTTPConnection, address: str, port: int, *, seconds: float) -> None:
    """Connect to this address; the connection never looks the name up again."""
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    connection.sock = opened
    opened.settimeout(seconds)
    opened.connect((address, port))


def _cut(connection: http.client.HTTPConnection) -> None:
    opened = connection.sock
    if opened is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(opened, socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _seconds_of(retry_after: str | None) -> float | None:
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
