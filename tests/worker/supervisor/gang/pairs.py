"""Two runners that form gangs, each in a thread that takes what there is for it, as a worker does."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.jobs.queue import workers
from app.jobs.queue.offers import CPU
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.supervisor.jobs import make_runner, submit
from worker.supervisor.gang.address import GangAddress
from worker.supervisor.installation import code_digest
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner

# Some seconds, so that an interruption never comes too late.
LONG = {"n_epochs": 160, "batch_size": 8, "checkpoint_steps": 5}


@dataclass
class Pair:
    """The runners, by what they were started with; `go` has both take jobs until the test has seen enough."""

    deployment: Deployment
    runners: list[Runner]
    done: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def submit(self, **columns: Any) -> str:
        return submit(self.deployment, **({"devices": 2, "machines": 2} | columns))

    def register(self) -> None:
        for runner in self.runners:
            register(self.deployment, runner)

    def start(self, number: int) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(self.runners[number],), daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def __enter__(self) -> "Pair":
        for number in range(len(self.runners)):
            self.start(number)
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for runner in self.runners:
            runner.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def _work(self, runner: Runner) -> None:
        while not self.done.wait(0.05):
            if not runner.stopping.is_set():
                register(self.deployment, runner)
                runner.run_next()


def make_pair(deployment: Deployment, forkserver: Forkserver, folder: Path, **changes: Any) -> Pair:
    shared = {"storage_url": deployment.settings.storage, "signing_key": deployment.settings.signing_key_path}
    runners = []
    for number in range(2):
        own = {"data_dir": folder / f"worker{number}", "grace_seconds": 20.0}
        runner = make_runner(deployment, forkserver, **(shared | own | changes))
        runner.worker, runner.gang_address = f"worker{number}", GangAddress(f"127.0.0.{number + 2}", "lo")
        runners.append(runner)
    return Pair(deployment, runners)


def register(deployment: Deployment, runner: Runner, *, code: str | None = None) -> None:
    count = len(runner.slots.devices)
    workers.register(
        deployment.db,
        runner.worker,
        devices=count,
        kind=CPU,
        products={CPU: count},
        gang_address=runner.gang_address.address if runner.gang_address else None,
        code=code or code_digest(),
    )
