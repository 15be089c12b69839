"""Like `apprentice_worker`, and its trainers hang after their first step whatever the job says."""

from app.http.telemetry import configure_logs
from app.settings import Settings
from tests.worker.apprentice_worker import APPRENTICE
from worker.supervisor.process.child import Nursery
from worker.tasks import make_worker, owned


def main() -> None:
    configure_logs()
    worker = make_worker(Settings())
    home, hidden = worker.runner.settings.work / "home", owned(worker.runner.settings)
    worker.runner.nursery = Nursery(home=home, hidden=hidden, entry=f"{APPRENTICE}:hang", preload=[APPRENTICE])
    worker.serve()


if __name__ == "__main__":
    main()
