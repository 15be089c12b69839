"""Celery's transport over a folder, for workers that are to stop without delay."""

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.filesystem import Transport

URL: Final = "permafrost-folder://localhost"
#: Celery looks whether it is to stop between two waits for a message, and would make each of them two seconds long.
WAIT_SECONDS: Final = 0.2


class FolderTransport(Transport):  # type: ignore[misc]
    """The file-system transport, whose waits are short."""

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        super().drain_events(connection, timeout=min(timeout or WAIT_SECONDS, WAIT_SECONDS))


TRANSPORT_ALIASES["permafrost-folder"] = f"{__name__}:FolderTransport"
