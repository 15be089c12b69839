"""A real worker process whose trainers need no torch: `python -m tests.worker.stub_worker`."""

from app.http.telemetry import configure_logs
from app.settings import Settings
from worker.supervisor.process.child import Forkserver
from worker.tasks import make_worker, owned

STUB_TRAINER = "tests.worker.supervisor.stub_trainer"


def main() -> None:
    configure_logs()
    worker = make_worker(Settings())
    settings = worker.runner.settings
    home, hidden = settings.work / "home", owned(settings)
    worker.runner.forkserver = Forkserver(home=home, hidden=hidden, entry=f"{STUB_TRAINER}:run", preload=[STUB_TRAINER])
    worker.serve()


if __name__ == "__main__":
    main()
