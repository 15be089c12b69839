"""Like `apprentice_worker`, and its trainers hang after their first step whatever the job says."""

from app.settings import Settings
from app.telemetry import configure_logs
from tests.worker.apprentice_worker import APPRENTICE
from worker.supervisor.child import Nursery
from worker.tasks import make_worker


def main() -> None:
    configure_logs()
    worker = make_worker(Settings())
    home = worker.runner.settings.work / "home"
    worker.runner.nursery = Nursery(home=home, entry=f"{APPRENTICE}:hang", preload=[APPRENTICE])
    worker.serve()


if __name__ == "__main__":
    main()
