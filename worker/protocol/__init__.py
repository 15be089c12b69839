"""What the supervisor and the trainer exchange: a work order, then reports, as files in one folder per attempt.

Both sides import it, so it needs the standard library and pure contracts alone: the supervisor stays without torch.
"""

from worker.protocol.order import ProtocolError, Stage, WorkOrder
from worker.protocol.reports import (
    EXIT_DEVICE_LOST,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_NO_ROOM,
    EXIT_SIGNALLED,
    EXIT_STOPPED,
    Report,
    Reporter,
    read_reports,
)
from worker.protocol.workspace import Workspace, write_json

__all__ = [
    "EXIT_DEVICE_LOST",
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_NO_ROOM",
    "EXIT_SIGNALLED",
    "EXIT_STOPPED",
    "ProtocolError",
    "Report",
    "Reporter",
    "Stage",
    "WorkOrder",
    "Workspace",
    "read_reports",
    "write_json",
]
