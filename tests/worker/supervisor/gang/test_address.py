"""At which address a worker meets the others of a gang."""

import socket

import pytest

from app.errors import InvalidRequest
from worker.supervisor.gang.address import GangAddress, find_address


def test_no_address_is_no_gang() -> None:
    """The default: the worker takes no job on several machines."""
    assert find_address("") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9"])
def test_loopback_stands_for_several_machines(address: str) -> None:
    """Each of its addresses is one; all are on one interface."""
    assert find_address(address) == GangAddress(address, "lo")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("8.8.8.8", "of a private network"),
        ("0.0.0.0", "of a private network"),
        ("224.0.0.5", "of a private network"),
        ("10.255.255.254", "this machine has 127.0.0.1 (lo)"),
        ("machine1", "write an IPv4 address such as 10.0.0.5"),
        ("fe80::1", "write an IPv4 address"),
        ("10.0.0.5:29400", "write an IPv4 address"),
    ],
)
def test_what_is_no_such_address(setting: str, says: str) -> None:
    """Refused when the worker starts, with what would do."""
    with pytest.raises(InvalidRequest) as refused:
        find_address(setting)
    assert refused.value.message.startswith(f"PERMAFROST_GANG_ADDRESS={setting}: ") and says in refused.value.message


def test_a_free_port_can_be_listened_on() -> None:
    """At the address itself, by a trainer that is about to start."""
    address = GangAddress("127.0.0.2", "lo")
    with socket.socket() as listener:
        listener.bind((address.address, address.free_port()))
