"""Fetches a file by http or https: each redirect is looked at, a cut download goes on, nothing is unpacked."""

import time
from typing import Final
from urllib.parse import urljoin

import httpx2

from app.errors import InvalidRequest
from app.files.references import check
from app.webhooks.addresses import AddressRefused, Reach, parse_url, resolve
from worker.supervisor.sources.arriving import Arriving, Later, SourceRefused

_REDIRECTS: Final = 5
_TIMEOUT: Final = httpx2.Timeout(30.0, connect=15.0)
#: Seconds before each further try of a connection that was cut off.
PAUSES: Final = (1.0, 5.0)
_LATER: Final = (408, 425, 429, 500, 502, 503, 504)


def fetch(url: str, arriving: Arriving, *, reach: Reach) -> None:
    """The bytes of the URL, all of them. Raises SourceRefused or Later."""
    with httpx2.Client(trust_env=False, follow_redirects=False, timeout=_TIMEOUT) as client:
        for pause in (*PAUSES, None):
            try:
                _once(client, url, arriving, reach)
                return
            except (httpx2.TransportError, OSError) as error:
                if pause is None:
                    raise Later(f"{_host(url)} does not answer or cuts off: {_reason(error)}") from None
                time.sleep(pause)


def _once(client: httpx2.Client, url: str, arriving: Arriving, reach: Reach) -> None:
    for _ in range(_REDIRECTS + 1):
        _refuse_address(url, reach)
        known = arriving.known_version()
        have = arriving.path.stat().st_size if known else 0
        headers = {"accept-encoding": "identity", "user-agent": "Permafrost/1"}
        headers |= {"range": f"bytes={have}-", "if-range": known} if known and have else {}
        with client.stream("GET", url, headers=headers) as answer:
            if answer.is_redirect:
                url = urljoin(url, answer.headers.get("location", ""))
                continue
            _take(answer, arriving, known)
            return
    raise SourceRefused(f"{_host(url)} redirects more than {_REDIRECTS} times", code="source_refused")


def _take(answer: httpx2.Response, arriving: Arriving, known: str | None) -> None:
    host = answer.url.host
    if answer.status_code == 416:
        arriving.forget()
        raise Later(f"{host} has a shorter file than before")
    if answer.status_code in _LATER:
        raise Later(f"{host} answers {answer.status_code}")
    if answer.status_code in (404, 410):
        raise SourceRefused(f"{host} answers {answer.status_code}: there is no such file", code="source_not_found")
    if not answer.is_success:
        message = f"{host} answers {answer.status_code}; the address has to open the file without a login"
        raise SourceRefused(message, code="source_refused")

    goes_on = answer.status_code == 206
    version = known if goes_on else _version(answer)
    if not goes_on:
        arriving.forget()
    have = arriving.begin(version)
    length = answer.headers.get("content-length", "")
    whole = have + int(length) if length.isdecimal() else None
    arriving.refuse_large(whole or 0)
    for data in answer.iter_raw():
        arriving.write(data)
    if whole is not None and arriving.size != whole:
        raise httpx2.ReadError(f"{arriving.size:,} of {whole:,} bytes came")


def _version(answer: httpx2.Response) -> str | None:
    """What `If-Range` takes: a strong validator of the bytes."""
    tag: str = answer.headers.get("etag", "")
    return tag if tag and not tag.startswith("W/") else None


def _refuse_address(url: str, reach: Reach) -> None:
    """SourceRefused for a URL, or the target of a redirect, that may not be fetched from, whatever its name is."""
    try:
        check(url, param="training_file", reach=reach)
        reach.choose(parse_url(url), resolve)
    except InvalidRequest as error:
        raise SourceRefused(error.message, code="source_address_refused") from None
    except AddressRefused:
        message = f"files may not be fetched from the address of {_host(url)} (see PERMAFROST_FETCH_ALLOW)"
        raise SourceRefused(message, code="source_address_refused") from None
    except UnicodeError as error:
        raise SourceRefused(f"{_host(url)} is no name of a host: {error}", code="source_not_found") from None


def _host(url: str) -> str:
    return httpx2.URL(url).host


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
