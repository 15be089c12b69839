"""What a request's headers ask for: a kind of response, a version that the caller already has, a time to wait."""

import re
from collections.abc import Iterator

from fastapi import Request

_PROBLEM = "application/problem+json"
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})(?![\d.])", re.IGNORECASE)
#: Waiting ends this long before the client gives up.
_MARGIN_SECONDS = 5


def is_retry(request: Request) -> bool:
    """Whether the `openai` SDK says that it repeats a request; it sends no idempotency key by itself."""
    return re.fullmatch(r"0*[1-9][0-9]*", request.headers.get("x-stainless-retry-count", "")) is not None


def wants_problem(accept: str) -> bool:
    """Whether `Accept` names RFC 9457's type with at least the weight of plain JSON."""
    weights = dict(_weights(accept))
    ranges = ("application/json", "application/*", "*/*")
    plain = next((weights[media_range] for media_range in ranges if media_range in weights), 0.0)
    return weights.get(_PROBLEM, 0.0) > 0 and weights[_PROBLEM] >= plain


def wants_page(request: Request) -> bool:
    """Whether a browser opens a page or sends a form, and no address of the API: `Accept` names HTML, as theirs do."""
    path = request.url.path
    if path == "/v1" or path.startswith("/v1/"):
        return False
    return dict(_weights(request.headers.get("accept", ""))).get("text/html", 0.0) > 0


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110's weak comparison with any of the listed tags; `*` matches every tag."""
    tags = [tag.strip() for tag in (if_none_match or "").split(",")]
    return "*" in tags or etag.removeprefix("W/") in (tag.removeprefix("W/") for tag in tags)


def wait_seconds(prefer: str | None, *, read_timeout: str, most: int) -> int:
    """Seconds of RFC 7240's `wait`, 0 without it, and less than the time after which the SDK gives up."""
    match = _WAIT.search(prefer or "")
    if match is None:
        return 0
    timed = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", read_timeout)
    until = int(float(read_timeout)) - _MARGIN_SECONDS if timed else most
    return max(0, min(int(match[1]), most, until))


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    """Each media range in lower case with its `q`, which is 0 if it is malformed."""
    for part in accept.lower().split(","):
        media_range, *parameters = (text.strip() for text in part.split(";"))
        given = [text.partition("=")[2].strip() for text in parameters if text.partition("=")[0].strip() == "q"]
        weight = given[0] if given else "1"
        yield media_range, float(weight) if _WEIGHT.fullmatch(weight) else 0.0
