"""What a request's headers ask for: a kind of answer, a version that the caller has already, patience."""

import re
from collections.abc import Iterator

_PROBLEM = "application/problem+json"
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})(?![\d.])", re.IGNORECASE)


def wants_problem(accept: str) -> bool:
    """Whether `Accept` names RFC 9457's type, and likes it no less than plain JSON."""
    weights = dict(_weights(accept))
    plain = next((weights[each] for each in ("application/json", "application/*", "*/*") if each in weights), 0.0)
    return weights.get(_PROBLEM, 0.0) > 0 and weights[_PROBLEM] >= plain


def has_already(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110's weak comparison: any of the listed tags, or `*` for whatever there is."""
    known = [each.strip() for each in (if_none_match or "").split(",")]
    return "*" in known or etag.removeprefix("W/") in (each.removeprefix("W/") for each in known)


def patience(prefer: str | None, *, read_timeout: str, most: int) -> int:
    """Seconds of RFC 7240's `wait`, 0 without it; below the time after which the SDK says that it gives up."""
    asked = _WAIT.search(prefer or "")
    if asked is None:
        return 0
    until = int(float(read_timeout)) - 5 if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", read_timeout) else most
    return max(0, min(int(asked[1]), most, until))


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    """Each media range in lower case with its `q`; one whose `q` is none counts for nothing."""
    for part in accept.lower().split(","):
        media_type, *parameters = (each.strip() for each in part.split(";"))
        given = [each.partition("=")[2].strip() for each in parameters if each.partition("=")[0].strip() == "q"]
        weight = given[0] if given else "1"
        yield media_type, float(weight) if _WEIGHT.fullmatch(weight) else 0.0
