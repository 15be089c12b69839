"""RFC 3161 timestamps, made by `openssl ts`."""

import shutil
import sys
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from app.evidence.format import timestamp
from app.evidence.format.timestamp import (
    MAX_TIMESTAMP,
    NoTimestampLibrary,
    TimestampError,
    imprint,
    in_order,
    query,
    read_timestamp,
    refusal,
)
from tests import authority
from tests.authority import Authority


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority.make(tmp_path_factory.mktemp("tsa") / "honest")


def roots(*files: Path) -> list[x509.Certificate]:
    return [x509.load_pem_x509_certificate(file.read_bytes()) for file in files]


def test_an_authoritys_time_is_read_and_verified(tsa: Authority) -> None:
    """Its time, its name, what it is of; and it stands under the root that the reader trusts."""
    stamped = read_timestamp(in_order(tsa.stamp(b"signature")))
    assert stamped.sha256 == imprint(b"signature")
    assert abs(stamped.time - datetime.now(UTC)) < timedelta(hours=1)
    assert stamped.authority == "CN=TSA"
    assert refusal(stamped, roots(tsa.roots)) is None


def test_our_query_is_answered(tsa: Authority) -> None:
    """openssl understands it, and gives its nonce back."""
    asked, nonce = query(b"signature")
    stamped = read_timestamp(in_order(tsa.answer(asked)))
    assert (stamped.sha256, stamped.response.tst_info.nonce) == (imprint(b"signature"), nonce)


def test_an_untrusted_authority_is_named(tsa: Authority, tmp_path: Path) -> None:
    """Its own root vouches for nothing but itself."""
    other = authority.make(tmp_path / "other", name="Other")
    said = refusal(read_timestamp(in_order(other.stamp(b"x"))), roots(tsa.roots))
    assert said == "by CN=Other, which none of the trusted certificates vouches for"


def test_a_certificate_that_was_out_of_date_is_named(tmp_path: Path) -> None:
    """At the timestamp's time, and not at the reader's: evidence is read years later."""
    tsa = authority.make(tmp_path / "tsa")
    stamped = read_timestamp(in_order(tsa.stamp(b"x")))
    certificate = roots(tmp_path / "tsa" / "tsa.pem")[0]
    late = timestamp.Timestamp(stamped.response, certificate.not_valid_after_utc + timedelta(days=1), "00", certificate)
    said = refusal(late, roots(tsa.roots)) or ""
    assert said.startswith("the certificate of CN=TSA is valid from") and said.endswith("not at the timestamp's time")
    root = roots(tsa.roots)[0]
    link = timestamp.Timestamp(stamped.response, root.not_valid_after_utc + timedelta(days=1), "00", root)
    assert "the certificate of CN=TSA root is valid from" in (refusal(link, [root]) or "")


@pytest.mark.parametrize("usage", ["timeStamping", "critical,codeSigning", "critical,timeStamping,codeSigning"])
def test_another_purpose_is_named(usage: str, tmp_path: Path, tsa: Authority) -> None:
    """openssl itself signs with no certificate but one for time-stamping, so one is put in place behind its back."""
    other = authority.make(tmp_path / "other", usage=usage)
    honest = read_timestamp(in_order(tsa.stamp(b"x")))
    wrong = timestamp.Timestamp(honest.response, honest.time, honest.sha256, roots(other.root / "tsa.pem")[0])
    assert refusal(wrong, roots(other.roots)) == (
        "the certificate of CN=TSA is not for time-stamping (extended key usage, critical)"
    )


def test_other_bytes_under_the_signature_are_refused(tsa: Authority) -> None:
    """Every byte of the signed part counts: one of the time, one of the digest, one of the signature."""
    der = bytearray(in_order(tsa.stamp(b"signature")))
    at = der.index(bytes.fromhex(imprint(b"signature")))
    der[at] ^= 1
    assert "vouches" in (refusal(read_timestamp(bytes(der)), roots(tsa.roots)) or "")


def test_no_flipped_bit_is_more_than_a_reason(tsa: Authority) -> None:
    """The parsers look at an extension only when it is asked for: one that is damaged is a reason, and no traceback."""
    der, damaged = in_order(tsa.stamp(b"signature")), 0
    for at in range(len(der)):
        changed = bytearray(der)
        changed[at] ^= 1 << at % 8
        with suppress(TimestampError), warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # about a serial number
            stamped = read_timestamp(bytes(changed))
            damaged += "its certificates cannot be read" in (refusal(stamped, roots(tsa.roots)) or "")
            assert stamped.sha256 == imprint(b"signature") or refusal(stamped, roots(tsa.roots))
    assert damaged


@pytest.mark.parametrize("garbage", [b"", b"0", b"x" * 99, b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", bytes(500)])
def test_garbage_is_named(garbage: bytes) -> None:
    """No traceback, and `in_order` leaves it alone."""
    assert in_order(garbage) == garbage
    with pytest.raises(TimestampError, match="not an RFC 3161 timestamp"):
        read_timestamp(garbage)


def test_every_cut_of_a_timestamp_is_named(tsa: Authority) -> None:
    der = in_order(tsa.stamp(b"x"))
    for end in range(0, len(der), 7):
        with pytest.raises(TimestampError):
            read_timestamp(in_order(der[:end]))
    with pytest.raises(TimestampError, match="at most 65536"):
        read_timestamp(bytes(MAX_TIMESTAMP + 1))


def test_a_refusal_and_another_digest_are_named(tsa: Authority) -> None:
    """The authority's own words; and SHA-512, of which a verifier would have to keep a second digest."""
    with pytest.raises(TimestampError, match="another digest than SHA-256"):
        read_timestamp(in_order(tsa.stamp(b"x", digest="sha512")))
    with pytest.raises(TimestampError, match="did not grant it"):
        read_timestamp(tsa.answer(b"no query"))


def test_certificates_are_put_in_order(tsa: Authority, tmp_path: Path) -> None:
    """openssl writes them as they come, the strict parser wants DER; openssl still verifies what was put in order."""
    for _ in range(4):  # either order, by the certificates' own bytes
        again = authority.make(tmp_path / "again")
        der = in_order(again.stamp(b"signature"))
        assert refusal(read_timestamp(der), roots(again.roots)) is None
        (again.root / "token.tsr").write_bytes(der)
        data = ["-data", again.root / "data", "-in", again.root / "token.tsr", "-CAfile", again.roots]
        authority.openssl("ts", "-verify", *data)
        shutil.rmtree(again.root)


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An auditor's Python may have nothing but cryptography."""
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(NoTimestampLibrary, match="pip install rfc3161-client"):
        read_timestamp(b"x")
