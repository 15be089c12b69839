"""One worker process, with its settings from the environment: checks its tables, warms the forkserver, serves."""

import argparse
import sys
import threading
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import OperationalError

from app.cli.errors import exit_with_message
from app.db import Database
from app.http.telemetry import configure_logs
from app.settings import Settings
from worker.once import run_one
from worker.supervisor.process.child import ChildError, Forkserver
from worker.tasks import make_worker


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="worker")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--wait", type=float, default=0.0)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

    configure_logs()
    with exit_with_message():
        worker = make_worker(Settings(), starts_jobs=not options.once)
        _expect_tables(worker.runner.db)
    # Importing torch takes seconds; the first job waits for what is left of them.
    threading.Thread(target=_warm, args=[worker.runner.forkserver], name="warm", daemon=True).start()
    if options.once:
        run_one(worker, wait=options.wait)
    else:
        worker.serve()


def _expect_tables(db: Database) -> None:
    """Without its tables a worker could only complain for ever; a database that is away for a while comes back."""
    from migrations.upgrade import shortfall

    try:
        with db.engine.connect() as connection:
            problem = shortfall(connection)
    except OperationalError:
        return
    if problem:
        raise SystemExit(problem)


def _warm(forkserver: Forkserver) -> None:
    try:
        forkserver.warm()
    except ChildError as error:
        if forkserver.closed:
            return
        structlog.get_logger(__name__).error("trainers cannot be started", error=str(error))
