"""A real worker process whose trainers need no torch: `python -m tests.worker.apprentice_worker`."""

from app.http.telemetry import configure_logs
from app.settings import Settings
from worker.supervisor.process.child import Nursery
from worker.tasks import make_worker, owned

APPRENTICE = "tests.worker.supervisor.apprentice"


def main() -> None:
    configure_logs()
    worker = make_worker(Settings())
    settings = worker.runner.settings
    home, hidden = settings.work / "home", owned(settings)
    worker.runner.nursery = Nursery(home=home, hidden=hidden, entry=f"{APPRENTICE}:run", preload=[APPRENTICE])
    worker.serve()


if __name__ == "__main__":
    main()
