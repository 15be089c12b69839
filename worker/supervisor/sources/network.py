"""What a process that fetches may connect to: public addresses, and networks that the operator allows.

Python calls an audit hook at every connection, whichever library makes it, with the address itself: names that change
their mind, redirects and endpoints in a secret all end here.
"""

import sys
from typing import Any, Final

from app.webhooks.addresses import Reach

_EVENTS: Final = ("socket.connect", "socket.sendto", "socket.sendmsg")


def confine(reach: Reach) -> None:
    """Raise AddressRefused, from now on and for good, at every connection of this process to another address."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and len(arguments) > 1 and isinstance(arguments[1], tuple):
            reach.check(str(arguments[1][0]), secure=True)

    sys.addaudithook(refuse)
