"""Celery's file-system transport with short waits, so that workers stop without delay."""

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.filesystem import Transport

URL: Final = "permafrost-folder://localhost"
#: Celery checks for a shutdown between two waits for a message. Its own waits are two seconds long.
WAIT_SECONDS: Final = 0.2


class FolderTransport(Transport):  # type: ignore[misc]
    """The file-system transport with waits of at most `WAIT_SECONDS`."""

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        super().drain_events(connection, timeout=min(timeout or WAIT_SECONDS, WAIT_SECONDS))


TRANSPORT_ALIASES["permafrost-folder"] = f"{__name__}:FolderTransport"
