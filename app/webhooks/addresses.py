"""Which addresses webhooks may be sent to: public ones, and networks that the operator allows. Names do not count.

`ipaddress.is_global` alone is not enough: it calls IPv6 addresses that wrap a private IPv4 one (NAT64, 6to4) public,
and its answer for some blocks depends on Python's patch release.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from app.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
#: Looks up a host and port: IP addresses as `socket.connect` takes them.
Resolve = Callable[[str, int], Sequence[str]]

#: Never allowed, whatever the operator allows: metadata services, and addresses that no receiver can have.
_NEVER: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8")
)
#: Not public, whatever this version of Python says.
_PRIVATE: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4",
        "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7",
        "fec0::/10",
    )
)  # fmt: skip
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")
_MAX_CHARACTERS: Final = 2048


class AddressRefused(Exception):
    """Webhooks may not be sent to this address. Has no details, which would describe the internal network."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a webhook's URL."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Reach:
    """The addresses that webhooks may be sent to: public ones, and the networks in `allowed`."""

    allowed: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Reach":
        """Parse PERMAFROST_WEBHOOK_ALLOW: networks separated by commas."""
        return cls(tuple(ipaddress.ip_network(network.strip()) for network in text.split(",") if network.strip()))

    def check(self, address: str, *, secure: bool) -> None:
        """Raise AddressRefused unless the address may be used. Without TLS only allowed networks may be."""
        inner = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if _within(inner, _NEVER):
            raise AddressRefused
        if not (_within(inner, self.allowed) or (secure and _public(inner))):
            raise AddressRefused

    def choose(self, target: Target, resolve: Resolve) -> str:
        """The address to connect to, looked up once. Raises AddressRefused if any address of the name is refused."""
        addresses = resolve(target.host, target.port)
        for address in addresses:
            self.check(address, secure=target.secure)
        return addresses[0]


def parse_url(url: str, *, param: str = "url") -> Target:
    """The parts of a webhook's URL. Raises InvalidRequest when it can be no webhook's, whatever it resolves to."""

    def invalid(reason: str) -> InvalidRequest:
        return InvalidRequest(f"url: {reason}", param=param, code="invalid_url")

    if len(url) > _MAX_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise invalid(
            f"must be at most {_MAX_CHARACTERS} printable ASCII characters; encode others (punycode, %-escapes)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise invalid(str(error)) from None
    if port == 0:
        raise invalid("port 0 cannot be connected to")
    if parts.scheme not in {"http", "https"}:
        raise invalid(f"must begin with https://, not {parts.scheme or url[:20]!r}")
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
        raise invalid("must name a host, without user, password or #fragment")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, parts.hostname, port or (443 if secure else 80), path)


def resolve(host: str, port: int) -> Sequence[str]:
    """The IP addresses of a host name, from the system's resolver. Raises OSError."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in entries]


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, NAT64), or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64 or address in _TRANSLATED:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not _within(address, _PRIVATE)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
