"""A real worker process whose trainers need no torch: `python -m tests.worker.stub_worker [--once SECONDS]`."""

import sys

from app.http.telemetry import configure_logs
from app.settings import Settings
from worker.once import run_one
from worker.supervisor.process.child import Forkserver
from worker.tasks import make_worker, owned

STUB_TRAINER = "tests.worker.supervisor.stub_trainer"


def main() -> None:
    configure_logs()
    once = sys.argv[1:2] == ["--once"]
    worker = make_worker(Settings(), starts_jobs=not once)
    settings = worker.runner.settings
    home, hidden = settings.work / "home", owned(settings)
    worker.runner.forkserver = Forkserver(home=home, hidden=hidden, entry=f"{STUB_TRAINER}:run", preload=[STUB_TRAINER])
    if once:
        run_one(worker, wait=float(sys.argv[2]))
    else:
        worker.serve()


if __name__ == "__main__":
    main()
