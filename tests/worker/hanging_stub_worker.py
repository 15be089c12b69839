"""Like `stub_worker`, and its trainers hang after their first step whatever the job says."""

from app.http.telemetry import configure_logs
from app.settings import Settings
from tests.worker.stub_worker import STUB_TRAINER
from worker.supervisor.process.child import Forkserver
from worker.tasks import make_worker, owned


def main() -> None:
    configure_logs()
    worker = make_worker(Settings())
    home, hidden = worker.runner.settings.work / "home", owned(worker.runner.settings)
    worker.runner.forkserver = Forkserver(
        home=home, hidden=hidden, entry=f"{STUB_TRAINER}:hang", preload=[STUB_TRAINER]
    )
    worker.serve()


if __name__ == "__main__":
    main()
