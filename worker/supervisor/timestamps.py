"""Asks a time-stamping authority (PERMAFROST_TSA_URL) for RFC 3161 timestamps over signatures of statements.

A job waits some seconds for its own at most. What the authority did not answer by then is requested again
by maintenance, less and less often, and attached to evidence that is stored already.
"""

import base64
import binascii
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx2
import structlog
from sqlalchemy import select, update

from app.db import Database, now
from app.evidence.format.der import elements
from app.evidence.format.recipe import MEMBER
from app.evidence.format.timestamp import (
    MAX_TIMESTAMP,
    NoTimestampLibrary,
    Timestamp,
    TimestampError,
    imprint,
    in_order,
    query,
    read_timestamp,
)
from app.evidence.tables import Evidence
from app.jobs.queue import event_log
from app.jobs.queue.event_log import NewEvent
from worker.supervisor.tls import certificates

log = structlog.get_logger(__name__)

#: Seconds that a job waits for a timestamp at its end, and maintenance for one.
JOB_SECONDS: Final = 3.0
MAINTENANCE_SECONDS: Final = 15.0
#: Timestamps that one round of maintenance asks for, and how long after a failure the next try is: as old as the
#: evidence is by then.
BATCH: Final = 16
SOONEST: Final = timedelta(seconds=30)
LATEST: Final = timedelta(hours=1)


class AuthorityFailed(Exception):
    """The authority did not answer in time, or with something else than a timestamp of what was asked."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A time-stamping authority over HTTP."""

    url: str

    def stamp_all(self, envelope: bytes, *, seconds: float) -> bytes:
        """Timestamps over the first signatures of the statement and of its recipe, one after the other.

        Not both at once: an authority that is `openssl ts` behind a web server fails to number two at a time.
        Raises AuthorityFailed, also where only one of them was given.
        """
        until = time.monotonic() + seconds
        signatures = [first_signature(envelope), *recipe_signature(envelope)]
        return b"".join(self.stamp(each, seconds=max(until - time.monotonic(), 0.1)) for each in signatures)

    def stamp(self, signature: bytes, *, seconds: float) -> bytes:
        """A timestamp over a signature, in DER. Raises AuthorityFailed; whether readers trust it is theirs to check."""
        try:
            body, nonce = query(signature)
            answer = in_order(self._post(body, seconds=seconds))
            _refuse_other(read_timestamp(answer), signature, nonce)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise AuthorityFailed(f"{type(error).__name__}: {error}") from None
        except (TimestampError, NoTimestampLibrary) as error:
            raise AuthorityFailed(str(error)) from None
        return answer

    def _post(self, body: bytes, *, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        answer = b""
        headers = {"content-type": "application/timestamp-query", "accept": "application/timestamp-reply"}
        with httpx2.stream(
            "POST", self.url, content=body, headers=headers, timeout=seconds, verify=certificates()
        ) as response:
            if response.status_code != 200:
                raise AuthorityFailed(f"it answered with status {response.status_code}")
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > MAX_TIMESTAMP:
                    raise AuthorityFailed(f"it answered with more than {MAX_TIMESTAMP} bytes")
                if time.monotonic() > until:
                    raise AuthorityFailed(f"no whole answer within {seconds:g} seconds")
        return answer


def first_signature(envelope: bytes) -> bytes:
    """The signature that is stamped: the first one, by the current key."""
    try:
        return base64.b64decode(json.loads(envelope)["signatures"][0]["sig"])
    except (ValueError, LookupError, TypeError, binascii.Error) as error:
        raise AuthorityFailed(f"the stored envelope cannot be read: {error}") from None


def recipe_signature(envelope: bytes) -> list[bytes]:
    """The first signature of the recipe beside a statement; nothing where there is no recipe, as in old evidence."""
    recipe = json.loads(envelope).get(MEMBER)
    return [] if recipe is None else [first_signature(json.dumps(recipe).encode())]


def stamp_due(db: Database, authority: Authority) -> int:
    """Ask for the timestamps that are due. Returns how many were attached. Any number of workers may do it at once."""
    attached = 0
    for job_id, envelope in _taken(db):
        try:
            token = authority.stamp_all(envelope, seconds=MAINTENANCE_SECONDS)
        except AuthorityFailed as error:
            log.warning("no timestamp yet", job=job_id, reason=str(error))
            return attached  # the others would wait as long
        attached += _attach(db, job_id, token)
    return attached


def _taken(db: Database) -> Iterator[tuple[str, bytes]]:
    """Evidence whose timestamp is due, one after the other, each put off before it is handed out."""
    for _ in range(BATCH):
        with db.write() as session:
            at = now(session)
            oldest = select(Evidence).where(Evidence.timestamp_due <= at).order_by(Evidence.timestamp_due).limit(1)
            row = session.scalar(oldest.with_for_update(skip_locked=True))
            if row is None or row.envelope is None:
                return
            row.timestamp_due = at + min(max(at - row.created_at, SOONEST), LATEST)
            found = row.job_id, row.envelope
        yield found


def _attach(db: Database, job_id: str, token: bytes) -> bool:
    with db.write() as session:
        missing = (Evidence.job_id == job_id, Evidence.timestamp.is_(None))
        done = session.execute(update(Evidence).where(*missing).values(timestamp=token, timestamp_due=None))
        if not done.rowcount:  # type: ignore[attr-defined]
            return False
        event_log.append(session, job_id, [stamped(token)])
    return True


def stamped(tokens: bytes) -> NewEvent:
    """The event of timestamps that were attached, by that of the statement."""
    read = read_timestamp(elements(tokens)[0])
    data = {"time": f"{read.time:%Y-%m-%dT%H:%M:%SZ}", "authority": read.authority}
    return NewEvent(f"Timestamp attached: signed by {data['time']}, by the clock of {data['authority']}", data=data)


def late(error: AuthorityFailed) -> NewEvent:
    """The event of a timestamp that follows."""
    return NewEvent(f"The time-stamping authority gave no timestamp ({error}); it is asked again", level="warn")


def _refuse_other(timestamp: Timestamp, signature: bytes, nonce: int | None) -> None:
    if timestamp.sha256 != imprint(signature):
        raise AuthorityFailed("it answered with a timestamp of something else")
    if nonce is not None and timestamp.response.tst_info.nonce != nonce:
        raise AuthorityFailed("it answered with an earlier timestamp (another nonce)")
