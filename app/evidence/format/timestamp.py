"""RFC 3161 timestamps over a signature of an envelope: a time by somebody else's clock.

An envelope has the authority's answer (a TimeStampResp in DER, base64) in the field `timestamp`, beside what is signed,
and one over the signature of the recipe in it in the field `recipeTimestamp`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.evidence.format.der import after, inside

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

MAX_TIMESTAMP: Final = 1 << 16  # bytes: an answer with its certificates has some thousand
_SHA256: Final = "2.16.840.1.101.3.4.2.1"


class TimestampError(ValueError):
    """Bytes that are no timestamp, or one that cannot be relied on."""


class NoTimestampLibrary(Exception):
    """`rfc3161-client` is not installed, so timestamps can neither be made nor checked."""

    def __init__(self) -> None:
        super().__init__("timestamps need the package rfc3161-client: pip install rfc3161-client")


@dataclass(frozen=True, slots=True)
class Timestamp:
    """An authority's answer, of which nothing has been verified but its form."""

    response: "TimeStampResponse"
    time: datetime
    sha256: str  # of what was stamped
    signer: x509.Certificate | None

    @property
    def authority(self) -> str:
        return self.signer.subject.rfc4514_string() if self.signer else "an authority without a certificate"


def read_timestamp(der: bytes) -> Timestamp:
    """Parse an answer. Raises TimestampError for anything but a granted timestamp over a SHA-256."""
    library = _library()
    if len(der) > MAX_TIMESTAMP:
        raise TimestampError(f"{len(der)} bytes; a timestamp has at most {MAX_TIMESTAMP}")
    try:
        response = library.decode_timestamp_response(der)
        if response.status != 0:
            said = "; ".join(response.status_string)
            raise TimestampError(f"the authority did not grant it (status {response.status}{': ' * bool(said)}{said})")
        info = response.tst_info
        if info.message_imprint.hash_algorithm.dotted_string != _SHA256:
            raise TimestampError("it is of another digest than SHA-256")
        time = info.gen_time
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        return Timestamp(response, time, info.message_imprint.message.hex(), _signer(response))
    except TimestampError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser's errors have no class of their own, some are of its language
        raise TimestampError(f"not an RFC 3161 timestamp: {str(error)[:200]}") from None


def refusal(timestamp: Timestamp, roots: Iterable[x509.Certificate]) -> str | None:
    """The reason why a timestamp is not by an authority under one of the roots, valid at its time; None if it is."""
    roots = list(roots)
    try:
        if late := _out_of_date(timestamp, roots):
            return late
        if wrong := _purpose(timestamp):
            return wrong
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        return f"its certificates cannot be read: {str(error)[:200]}"  # they are parsed only when they are looked at
    try:
        verifier = _library().VerifierBuilder(roots=roots).build()
        verifier.verify(timestamp.response, bytes.fromhex(timestamp.sha256))
    except Exception:  # noqa: BLE001 - as above: whatever the library says, nothing vouches for the timestamp
        return f"by {timestamp.authority}, which none of the trusted certificates vouches for"
    return None


def imprint(signature: bytes) -> str:
    """What a timestamp over a signature is of."""
    return hashlib.sha256(signature).hexdigest()


def query(signature: bytes) -> tuple[bytes, int | None]:
    """The request for a timestamp over a signature, and its nonce."""
    library = _library()
    builder = library.TimestampRequestBuilder().data(signature).hash_algorithm(library.HashAlgorithm.SHA256)
    request = builder.build()
    return request.as_bytes(), request.nonce


def in_order(der: bytes) -> bytes:
    """The answer with its certificates in DER's order, in which `openssl ts` does not write them. They are not signed.

    Returns bytes that are no such answer as they are.
    """
    try:
        at, end = inside(der, 0)  # TimeStampResp
        at, end = inside(der, after(der, at))  # past the status: ContentInfo
        at, end = inside(der, after(der, at))  # past its type
        at, end = inside(der, at)  # SignedData
        for _ in range(3):  # version, digest algorithms, what is signed
            at = after(der, at)
        if at >= end or der[at] != 0xA0:
            return der
        at, end = inside(der, at)
        parts, begin = [], at
        while at < end:
            parts.append(der[at : after(der, at)])
            at = after(der, at)
    except IndexError:
        return der
    return der[:begin] + b"".join(sorted(parts)) + der[end:] if at == end else der


def _certificates(response: "TimeStampResponse") -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in response.signed_data.certificates]


def _signer(response: "TimeStampResponse") -> x509.Certificate | None:
    (info,) = response.signed_data.signer_infos
    named = (
        each
        for each in _certificates(response)
        if each.issuer == info.issuer and each.serial_number == info.serial_number
    )
    return next(named, None)


def _out_of_date(timestamp: Timestamp, roots: Iterable[x509.Certificate]) -> str | None:
    """Names a certificate of the chain that was not valid at the timestamp's time."""
    by_subject = {each.subject: each for each in (*_certificates(timestamp.response), *roots)}
    link, seen = timestamp.signer, 0
    while link is not None and seen < len(by_subject):
        if not link.not_valid_before_utc <= timestamp.time <= link.not_valid_after_utc:
            span = f"{link.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} to {link.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
            return (
                f"the certificate of {link.subject.rfc4514_string()} is valid from {span}, not at the timestamp's time"
            )
        if link.issuer == link.subject:
            break
        link, seen = by_subject.get(link.issuer), seen + 1
    return None


def _purpose(timestamp: Timestamp) -> str | None:
    if timestamp.signer is None:
        return "it does not have the certificate of the authority that signed it"
    try:
        usage = timestamp.signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        return f"the certificate of {timestamp.authority} is not for time-stamping (extended key usage, critical)"
    return None


def _library() -> Any:
    try:
        import rfc3161_client
    except ImportError:
        raise NoTimestampLibrary from None
    return rfc3161_client
