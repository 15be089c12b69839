"""Starts this machine's ranks of a job on several machines, by torch's elastic agent; one runs on each machine.

The supervisors have agreed on ranks and on the address at which all meet, so the agents' rendezvous is the static one.
Ranks are forked, as on one machine (launch.py), and nothing is started again here: that is the supervisor's to decide.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from worker.protocol import EXIT_DONE, EXIT_FAILED, EXIT_SIGNALLED, EXIT_STOPPED, Reporter, WorkOrder, Workspace
from worker.trainer.ranks.launch import GOOD, Work, exit_code

#: Seconds in which all agents meet; each is started once every machine has staged its files.
MEET_SECONDS: Final = 120
#: Seconds for which a rank that fails stays, so that one that was killed is seen first; the agent looks every 0.1 s.
LINGER_SECONDS: Final = 1.0
#: A signal that nobody sends: the agent would answer SIGTERM by killing ranks that save their state.
_NO_SIGNAL: Final = "SIGUSR2"


def launch_on_machines(workspace: Workspace, order: WorkOrder, work: Work) -> int:
    """Run `work` in this machine's ranks, wait for all machines, and return one exit code for the ranks here.

    A rank that fails here ends the others here; those of other machines lose their connection to it.
    """
    # Imported here: it takes a moment, and most jobs train on one machine.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    assert order.meeting is not None and order.interface is not None
    # Their exchange stays on the network that was configured.
    os.environ |= {"GLOO_SOCKET_IFNAME": order.interface, "NCCL_SOCKET_IFNAME": order.interface}
    _silence()
    config = LaunchConfig(
        min_nodes=order.machines,
        max_nodes=order.machines,
        nproc_per_node=order.devices,
        run_id=f"{order.job_id}-{order.attempt}",
        rdzv_backend="static",
        rdzv_endpoint=order.meeting,
        rdzv_configs={"rank": order.machine, "timeout": MEET_SECONDS},
        local_addr=order.meeting.rpartition(":")[0],
        max_restarts=0,
        start_method="fork",
        signals_to_handle=_NO_SIGNAL,
    )

    def rank(folder: str) -> int:
        """What a forked rank does. The agent takes any exit code but 0 for a failure, so a good one is returned."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = exit_code(Workspace(Path(folder)), work)
        if code not in GOOD:
            # All ranks see the connection break when one dies, and the agent names the first that has ended.
            time.sleep(LINGER_SECONDS if code == EXIT_FAILED and order.devices > 1 else 0.0)
            raise SystemExit(code)
        return code

    sys.stdout.flush()
    sys.stderr.flush()
    with _meeting_point(order), _leaving_sigterm_to_ranks():
        try:
            codes = elastic_launch(config, rank)(str(workspace.root))
        except ChildFailedError as failed:
            number, failure = failed.get_first_failure()
            return _failed(workspace, number, int(failure.exitcode))
    return EXIT_STOPPED if EXIT_STOPPED in codes.values() else EXIT_DONE


@contextmanager
def _meeting_point(order: WorkOrder) -> Iterator[None]:
    """On the first machine, the store at which the agents meet, on the configured address alone.

    The agent's own would listen on every address of the machine. It finds this one by its port (`multi_tenant`).
    """
    if order.machine:
        yield
        return
    import torch.distributed as dist

    assert order.meeting is not None
    host, _, port = order.meeting.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((host, int(port)))
        listener.listen(128)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host,
            int(port),
            order.machines,
            is_master=True,
            timeout=timedelta(seconds=MEET_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=listener.detach(),
        )
        yield
        del store


@contextmanager
def _leaving_sigterm_to_ranks() -> Iterator[None]:
    """Ignore SIGTERM here: it is sent to the whole process group, and the ranks answer it with their state saved."""

    def ignored(*_: Any) -> None:
        return

    before = signal.signal(signal.SIGTERM, ignored)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed(workspace: Workspace, rank: int, code: int) -> int:
    if code > 0:
        return code
    message = f"rank {rank} was ended by signal {-code}"
    print(message, flush=True)
    with Reporter(workspace.reports) as reporter:
        reporter.event(message, level="warn", rank=rank, signal=-code)
    return EXIT_SIGNALLED - code


def _silence() -> None:
    """Ranks write their own errors; the agent would repeat them with a traceback of its own code."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
