"""Which addresses webhooks may be sent to, judged by the address alone."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.settings import Settings
from app.webhooks.addresses import AddressRefused, Reach, Target, parse_url

NOWHERE = Reach()
EVERYWHERE = Reach.parse("0.0.0.0/0, ::/0")

#: Each stands for a block of the IANA special-purpose registries, or for an IPv4 address in IPv6 clothes.
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1",
    "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1",
    "255.255.255.255", "::1", "fc00::1", "fd12::1", "fec0::1", "2001:db8::1", "2001::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "3fff::1", "5f00::1", "100::1", "64:ff9b:1::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:0:7f00:1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "::ffff:c0a8:1",
]  # fmt: skip
#: Nowhere, and the addresses that clouds give their metadata services.
NEVER = [
    "169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "0.1.2.3", "::",
    "224.0.0.1", "239.1.2.3", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "::ffff:0:a9fe:a9fe",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE + NEVER)
def test_what_is_not_public_is_refused(address: str):
    """Loopback, private, shared, reserved, wrapped: none of them is reached unless it was allowed."""
    with pytest.raises(AddressRefused):
        NOWHERE.check(address, secure=True)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_services_are_refused_whatever_is_allowed(address: str):
    """An allow-list that is too wide opens no way to the credentials of the machine."""
    with pytest.raises(AddressRefused):
        EVERYWHERE.check(address, secure=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached_over_tls_alone(address: str):
    """Also through NAT64, where a public IPv4 address wears IPv6 clothes; never in plain text."""
    NOWHERE.check(address, secure=True)
    with pytest.raises(AddressRefused):
        NOWHERE.check(address, secure=False)


def test_the_allow_list_opens_exactly_its_networks():
    """In plain text, too, and for IPv4-mapped addresses as for the addresses themselves."""
    reach = Reach.parse("10.1.0.0/16,fd12:3456::/32")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12:3456::1"):
        reach.check(address, secure=False)
    for address in ("10.2.0.1", "127.0.0.1", "fd13::1"):
        with pytest.raises(AddressRefused):
            reach.check(address, secure=True)


@given(st.ip_addresses())
def test_nothing_passes_that_python_does_not_call_global(address):
    """Whatever our own list forgets, the standard library's still holds."""
    try:
        NOWHERE.check(str(address), secure=True)
    except AddressRefused:
        return
    inner = getattr(address, "ipv4_mapped", None) or address
    assert inner.is_global and not inner.is_multicast


@given(st.ip_addresses(v=4))
def test_clothes_change_nothing(address):
    """An IPv4 address is judged alike by itself, mapped into IPv6, and behind NAT64."""

    def passes(text: str) -> bool:
        try:
            NOWHERE.check(text, secure=True)
        except AddressRefused:
            return False
        return True

    number = int(address)
    wrapped = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    assert passes(str(address)) == passes(f"::ffff:{address}") == passes(str(wrapped))


def test_one_bad_address_among_several_condemns_a_name():
    """A name that resolves to a public address and a private one is not tried with either."""
    target = Target(True, "hooks.example.org", 443, "/")
    assert NOWHERE.choose(target, lambda *_: ["8.8.8.8", "1.1.1.1"]) == "8.8.8.8"
    with pytest.raises(AddressRefused):
        NOWHERE.choose(target, lambda *_: ["8.8.8.8", "10.0.0.1"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.org/", "begin with https"),
        ("file:///etc/passwd", "begin with https"),
        ("gopher://127.0.0.1:6379/_x", "begin with https"),
        ("example.org/hook", "begin with https"),
        ("https://", "name a host"),
        ("https://user@example.org/", "without user"),
        ("https://user:secret@example.org/", "without user"),
        ("https://example.org/#top", "without user"),
        ("https://example.org:99999/", "[Pp]ort"),
        ("https://example.org:0/", "port 0"),
        ("https://example.org:x/", "[Pp]ort"),
        ("https://[::1/", "IPv6"),
        ("https://example.org/a b", "printable ASCII"),
        ("https://example.org/\r\nx-evil: 1", "printable ASCII"),
        ("https://exämple.org/", "printable ASCII"),
        ("https://example.org/" + "a" * 2048, "2048"),
    ],
)
def test_what_is_no_address_of_a_webhook(url: str, why: str):
    """Refused with `param` url, before anything is resolved."""
    with pytest.raises(InvalidRequest, match=why) as refused:
        parse_url(url)
    assert refused.value.param == "url"


def test_a_url_taken_apart():
    """Host, port, path with query; the Host header names the port only where it is not the scheme's own."""
    target = parse_url("https://Hooks.Example.org/a?b=c")
    assert target == Target(True, "hooks.example.org", 443, "/a?b=c") and target.authority == "hooks.example.org"
    assert parse_url("http://[::1]:8080").authority == "[::1]:8080"


def test_a_wrong_network_stops_the_service():
    """`10.0.0.1/8` has host bits set: whoever wrote it meant something else."""
    with pytest.raises(ValueError, match="host bits"):
        Settings(webhook_allow="10.0.0.1/8")
