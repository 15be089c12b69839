"""A job's states and the moves between them, as data. `lifecycle` is the only module that performs one."""

from typing import Final, Literal

Status = Literal["validating_files", "queued", "running", "pausing", "paused", "succeeded", "failed", "cancelled"]

MOVES: Final[dict[str, frozenset[str]]] = {
    # A large file is validated by the worker, as the first thing of its attempt.
    "validating_files": frozenset({"running", "paused", "cancelled"}),
    "queued": frozenset({"running", "paused", "cancelled"}),
    # Back to queued: the worker drained, died or lost its lease.
    "running": frozenset({"succeeded", "failed", "cancelled", "pausing", "queued"}),
    "pausing": frozenset({"paused", "succeeded", "failed", "cancelled", "running"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

TERMINAL: Final = frozenset(status for status, moves in MOVES.items() if not moves)
#: What may be desired of a job besides `pause` and `cancel`: that it runs. For one on several machines there is a word
#: of its own: a worker of a version before gangs looks for jobs to `run`, and would train it alone, on its own devices.
RUN: Final = "run"
RUN_AS_GANG: Final = "gang"
TO_RUN: Final = (RUN, RUN_AS_GANG)
#: Waiting for a worker.
CLAIMABLE: Final = frozenset({"validating_files", "queued"})
#: Under a worker's lease.
LEASED: Final = frozenset({"running", "pausing"})


def to_run(machines: int) -> str:
    """What is desired of a job on so many machines that is to run."""
    return RUN if machines == 1 else RUN_AS_GANG
