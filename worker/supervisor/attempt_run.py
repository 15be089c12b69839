"""What one attempt works with, and the trainer processes that it runs one after the other."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from app.settings import Settings
from worker.protocol import WorkOrder, Workspace
from worker.supervisor.attempt_trace import AttemptTrace
from worker.supervisor.devices import Device
from worker.supervisor.gang.leader import Leader
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.outcomes import TrainerCrashed, explain
from worker.supervisor.process.child import Child, Forkserver
from worker.supervisor.reports import ReportReader

#: Seconds between reads of a trainer's reports.
LOOK_SECONDS: Final = 0.02
#: Seconds that the trainer of a job that is no longer ours may take to end.
CANCEL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class AttemptRun:
    """One attempt: its folder, lease and devices, its trace, its reports, and its gang if it has one."""

    settings: Settings
    forkserver: Forkserver
    stopping: threading.Event  # this worker is shutting down
    workspace: Workspace
    keeper: LeaseKeeper
    device: Device
    trace: AttemptTrace
    reports: ReportReader
    leader: Leader | None

    def trainer(self, order: WorkOrder, *, writable: Sequence[Path] = ()) -> None:
        """Run one trainer process to its end. Returns when it did its work; raises what happened otherwise."""
        order.save(self.workspace.root)
        leader = self.leader if order.machines > 1 else None
        try:
            code = self._wait_for(leader, several=order.devices * order.machines > 1, writable=writable)
        finally:
            self.keeper.ship_log(ended=True)
        self._forward()
        if not self.keeper.expired:
            self.keeper.until_stored(self.keeper.flush)  # its last reports, while the job is still ours
            if leader is not None:
                leader.explain(code, self.reports)
        explain(code, self.reports, stop_requested=self.should_stop(), keeper=self.keeper)

    def _wait_for(self, leader: Leader | None, *, several: bool, writable: Sequence[Path]) -> int:
        keeper, reports = self.keeper, self.reports
        start = partial(self.forkserver.start, environment=dict(self.device.environment), several=several)
        with start(self.workspace.root, writable=writable) as child:
            child.extend_lease(keeper.until)
            reports.heard_at = time.monotonic()  # only now: a forkserver may have had to import torch before
            while (code := child.wait(LOOK_SECONDS)) is None:
                child.extend_lease(keeper.until)
                self._forward()
                if self.should_stop():
                    code = self._stop(child)
                    break
                if leader is not None and leader.broken():
                    code = child.stop(0.0)
                    break
                if time.monotonic() - reports.heard_at > self.settings.stall_seconds:
                    child.kill()
                    raise TrainerCrashed(f"the trainer reported nothing for {self.settings.stall_seconds:.0f} seconds")
        return code

    def should_stop(self) -> bool:
        """Whether the job was cancelled or paused, is no longer ours, or this worker is shutting down."""
        return self.keeper.stop_requested or self.stopping.is_set()

    def _forward(self) -> None:
        """Pass new reports on to the database; the first step at once, since it is what users wait for."""
        stepped = self.reports.stepped
        news = self.reports.read()
        self.keeper.post(news, urgent=self.reports.stepped and not stepped)

    def _stop(self, child: Child) -> int:
        """Ask the trainer to save its state and stop, and wait for it; a job that is no longer ours gets less time."""
        child.terminate()
        asked_at = time.monotonic()
        while (code := child.wait(LOOK_SECONDS)) is None:
            child.extend_lease(self.keeper.until)
            self._forward()
            grace = CANCEL_SECONDS if self.keeper.expired else self.settings.grace_seconds
            if time.monotonic() - asked_at > min(grace, self.settings.grace_seconds):
                child.kill()
                code = child.wait()
                break

        assert code is not None
        return code
