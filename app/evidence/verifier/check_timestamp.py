"""Checks of the timestamp over a statement's signature, for a reader who names the authorities that he trusts."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from app.evidence.format.envelope import RECIPE_TIMESTAMP, TIMESTAMP, Envelope, pae
from app.evidence.format.keys import TrustedKey, iso
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
    context.timestamp = _read(context, TIMESTAMP, "timestamp_readable")
    return True


def read_recipes(context: CheckContext) -> None:
    """Read the timestamp over the recipe's signature, likewise."""
    if context.inputs.tsa_roots:
        context.recipe_timestamp = _read(context, RECIPE_TIMESTAMP, "recipe_timestamp_readable")


def _read(context: CheckContext, field: str, check: str) -> "Timestamp | None":
    from app.evidence.format.timestamp import NoTimestampLibrary, TimestampError, read_timestamp

    text = context.envelope.document.get(field)
    if text is None:
        return None
    try:
        return read_timestamp(base64.b64decode(text, validate=True))
    except (TypeError, binascii.Error):
        raise Rejected([Problem(check, f"the envelope's {field} is not base64")]) from None
    except TimestampError as error:
        raise Rejected([Problem(check, str(error))]) from None
    except NoTimestampLibrary as error:
        raise CannotCheck(str(error)) from None


def _given(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement without a timestamp: its date is the signer's word."""
    if context.timestamp is None:
        yield Problem("timestamp_given", "no timestamp: its date is by the signer's clock alone")


def _subject(context: CheckContext) -> Iterator[Problem]:
    """Rejects a timestamp that is not of a signature by a trusted key over this statement."""
    if context.timestamp and not _is_of(context.timestamp, context.envelope, context.signers):
        yield Problem(
            "timestamp_subject",
            f"the timestamp is of something else than a trusted signature ({context.timestamp.sha256})",
        )


def _recipe_subject(context: CheckContext) -> Iterator[Problem]:
    """Rejects a timestamp that is not of a signature by a trusted key over this recipe."""
    stamped, envelope = context.recipe_timestamp, context.recipe_envelope
    if stamped and envelope and not _is_of(stamped, envelope, context.recipe_signers):
        reason = f"the recipe's timestamp is of something else than a trusted signature of it ({stamped.sha256})"
        yield Problem("recipe_timestamp_subject", reason)


def _is_of(timestamp: "Timestamp", envelope: Envelope, signers: Iterable[TrustedKey]) -> bool:
    from app.evidence.format.timestamp import imprint

    message = pae(envelope.payload_type, envelope.payload)
    stamped = [each for each in envelope.signatures if imprint(each) == timestamp.sha256]
    return any(key.verifies(signature, message) for signature in stamped for key in signers)


def _authority(context: CheckContext) -> Iterator[Problem]:
    """Rejects a timestamp by another authority than the reader trusts, or one whose certificates were out of date."""
    if reason := _refusal(context, context.timestamp):
        yield Problem("timestamp_authority", reason)


def _recipe_authority(context: CheckContext) -> Iterator[Problem]:
    """Rejects a timestamp over the recipe for the same reasons."""
    if reason := _refusal(context, context.recipe_timestamp):
        yield Problem("recipe_timestamp_authority", reason)


def _refusal(context: CheckContext, timestamp: "Timestamp | None") -> str | None:
    if timestamp is None:
        return None
    from app.evidence.format.timestamp import refusal

    return refusal(timestamp, context.inputs.tsa_roots)


def _order(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement that is dated later than its signature was stamped."""
    if (timestamp := context.timestamp) and context.predicate.issued_at > timestamp.time + CLOCK_SKEW:
        yield Problem(
            "timestamp_order", f"dated {iso(context.predicate.issued_at)}, but stamped at {iso(timestamp.time)} already"
        )


def _recipe_order(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe of a run that ended later than the recipe's signature was stamped."""
    if (stamped := context.recipe_timestamp) and (recipe := context.recipe):
        finished = recipe.observed.finished_at
        if finished > stamped.time + CLOCK_SKEW:
            reason = f"a run that ended at {iso(finished)}, but whose recipe was stamped at {iso(stamped.time)} already"
            yield Problem("recipe_timestamp_order", reason)


def described(timestamp: "Timestamp | None") -> dict[str, str | None] | None:
    """The time and authority of a verified timestamp, for the report."""
    return {"time": iso(timestamp.time), "authority": timestamp.authority} if timestamp else None


CHECKS: dict[str, Check] = {
    "timestamp_given": _given,
    "timestamp_subject": _subject,
    "timestamp_authority": _authority,
    "timestamp_order": _order,
}

RECIPE_CHECKS: dict[str, Check] = {
    "recipe_timestamp_subject": _recipe_subject,
    "recipe_timestamp_authority": _recipe_authority,
    "recipe_timestamp_order": _recipe_order,
}
