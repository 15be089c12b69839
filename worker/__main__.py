"""`python -m worker`: one worker process, with its settings from the environment."""

import threading

import structlog

from app.settings import Settings
from app.telemetry import configure_logs
from worker.supervisor.child import ChildError, Nursery
from worker.tasks import make_worker


def main() -> None:
    configure_logs()
    worker = make_worker(Settings())
    # Importing torch takes seconds; the first job waits for what is left of them.
    threading.Thread(target=_warm, args=[worker.runner.nursery], name="warm", daemon=True).start()
    worker.serve()


def _warm(nursery: Nursery) -> None:
    try:
        nursery.warm()
    except ChildError as error:
        if nursery.closed:
            return
        structlog.get_logger(__name__).error("trainers cannot be started", error=str(error))


if __name__ == "__main__":
    main()
