"""The address at which a worker meets the others of a gang: one of this machine, and never a public one."""

import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from app.errors import InvalidRequest

_SIOCGIFADDR: Final = 0x8915


@dataclass(frozen=True, slots=True)
class GangAddress:
    """An address of this machine, and the network interface that has it."""

    address: str
    interface: str

    def free_port(self) -> int:
        """A port of the kernel's choice that nothing listens on now. Trainers may listen on such ports alone."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((self.address, 0))
            return int(listener.getsockname()[1])


def find_address(setting: str) -> GangAddress | None:
    """The address that PERMAFROST_GANG_ADDRESS names; None where it is empty. Raises InvalidRequest."""
    if not setting:
        return None
    try:
        address = ipaddress.IPv4Address(setting)
    except ValueError:
        raise InvalidRequest(f"PERMAFROST_GANG_ADDRESS={setting}: write an IPv4 address such as 10.0.0.5") from None
    if address.is_global or address.is_multicast or address.is_unspecified:
        message = "members of a gang trust each other and encrypt nothing; write an address of a private network"
        raise InvalidRequest(f"PERMAFROST_GANG_ADDRESS={setting}: {message}")

    interfaces = _addresses()
    if address.is_loopback and "lo" in interfaces:  # the whole network is this machine
        return GangAddress(setting, "lo")
    for interface, found in interfaces.items():
        if found == setting:
            return GangAddress(setting, interface)
    there = ", ".join(f"{found} ({interface})" for interface, found in interfaces.items())
    raise InvalidRequest(f"PERMAFROST_GANG_ADDRESS={setting}: this machine has {there or 'no address'}")


def _addresses() -> dict[str, str]:
    """The first IPv4 address of each interface that has one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an address
            found[name] = socket.inet_ntoa(answer[20:24])
    return found
