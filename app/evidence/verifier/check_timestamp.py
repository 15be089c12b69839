"""Checks of the timestamp over a statement's signature, for a reader who names the authorities that he trusts."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from app.evidence.format.envelope import TIMESTAMP, pae
from app.evidence.format.keys import iso
from app.evidence.verifier.context import CannotCheck, Check, CheckContext, Problem, Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from app.evidence.format.timestamp import Timestamp

CLOCK_SKEW = timedelta(minutes=5)


def roots_of(paths: Sequence[Path | str]) -> tuple["Certificate", ...]:
    """The certificates in PEM files of the reader's. Raises CannotCheck."""
    if not paths:
        return ()
    from cryptography import x509  # as costly to import as the rest of a verifier

    roots: list[Certificate] = []
    for path in map(Path, paths):
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
        except OSError as error:
            raise CannotCheck(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise CannotCheck(f"{path} holds no certificates in PEM: {error}") from None
        roots += [each for each in found if each not in roots]
    return tuple(roots)


def read(context: CheckContext) -> bool:
    """Read the timestamp, if there is one and the reader trusts an authority. Raises Rejected for garbage."""
    if not context.inputs.tsa_roots:
        return False
    from app.evidence.format.timestamp import NoTimestampLibrary, TimestampError, read_timestamp

    text = context.envelope.document.get(TIMESTAMP)
    if text is None:
        return True
    try:
        context.timestamp = read_timestamp(base64.b64decode(text, validate=True))
    except (TypeError, binascii.Error):
        raise Rejected([Problem("timestamp_readable", "the envelope's timestamp is not base64")]) from None
    except TimestampError as error:
        raise Rejected([Problem("timestamp_readable", str(error))]) from None
    except NoTimestampLibrary as error:
        raise CannotCheck(str(error)) from None
    return True


def _given(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement without a timestamp: its date is the signer's word."""
    if context.timestamp is None:
        yield Problem("timestamp_given", "no timestamp: its date is by the signer's clock alone")


def _subject(context: CheckContext) -> Iterator[Problem]:
    """Rejects a timestamp that is not of a signature by a trusted key over this statement."""
    if (timestamp := context.timestamp) is None:
        return
    from app.evidence.format.timestamp import imprint

    message = pae(context.envelope.payload_type, context.envelope.payload)
    stamped = [each for each in context.envelope.signatures if imprint(each) == timestamp.sha256]
    if not any(key.verifies(signature, message) for signature in stamped for key in context.signers):
        yield Problem(
            "timestamp_subject", f"the timestamp is of something else than a trusted signature ({timestamp.sha256})"
        )


def _authority(context: CheckContext) -> Iterator[Problem]:
    """Rejects a timestamp by another authority than the reader trusts, or one whose certificates were out of date."""
    if context.timestamp is None:
        return
    from app.evidence.format.timestamp import refusal

    if reason := refusal(context.timestamp, context.inputs.tsa_roots):
        yield Problem("timestamp_authority", reason)


def _order(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement that is dated later than its signature was stamped."""
    if (timestamp := context.timestamp) and context.predicate.issued_at > timestamp.time + CLOCK_SKEW:
        yield Problem(
            "timestamp_order", f"dated {iso(context.predicate.issued_at)}, but stamped at {iso(timestamp.time)} already"
        )


def described(timestamp: "Timestamp | None") -> dict[str, str | None] | None:
    """The time and authority of a verified timestamp, for the report."""
    return {"time": iso(timestamp.time), "authority": timestamp.authority} if timestamp else None


CHECKS: dict[str, Check] = {
    "timestamp_given": _given,
    "timestamp_subject": _subject,
    "timestamp_authority": _authority,
    "timestamp_order": _order,
}
