"""The `permafrost` command. Each subcommand imports what it needs, so that `permafrost verify` starts at once."""

import gc
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from app.jsontypes import JsonDict

if TYPE_CHECKING:
    from typer import Typer

#: Commands that parse their own arguments in a module of the worker.
IN_THE_WORKER = {"reproduce": "worker.reproduction", "prove-example": "worker.reproduction.proving"}


def main() -> None:
    """Run one subcommand. `verify` and `diff` parse their own arguments: an auditor may have neither typer nor rich."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "verify":
        gc.disable()  # there are no cycles to find, and the imports alone would set it off dozens of times
        from app.evidence.verifier import verify

        raise SystemExit(verify.main(sys.argv[2:]))
    if name == "diff":
        from app.evidence.diff import diff

        raise SystemExit(diff.main(sys.argv[2:]))
    if name == "check-example":
        from app.evidence.verifier import check_example

        raise SystemExit(check_example.main(sys.argv[2:]))
    if name == "log":
        from app.evidence.verifier import audit_log

        raise SystemExit(audit_log.main(sys.argv[2:]))
    if name in IN_THE_WORKER:
        in_the_worker(IN_THE_WORKER[name])
    if name == "--version":
        from app import __version__

        print(f"permafrost {__version__}")
        return
    from app.cli.errors import exit_with_message

    with exit_with_message():
        make_app()(prog_name="permafrost")  # also where it is run as a module: completion goes by this name


def make_app() -> "Typer":
    import typer

    from app.cli import jobs
    from app.cli.agents import mcp
    from app.cli.base import app as base
    from app.cli.client import preview, submit, watch
    from app.cli.files import app as files
    from app.cli.keys import app as keys
    from app.cli.migrate import migrate
    from app.cli.models import app as models
    from app.cli.openai_export import app as imports
    from app.cli.papers import bom, pack
    from app.cli.push import push
    from app.cli.secrets import app as secrets
    from app.cli.sweep import sweep
    from app.ops.backup.command import backup, restore
    from app.ops.doctor.command import doctor

    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        """Fine-tuning jobs with signed evidence that the frozen weights did not change by a bit."""

    commands: dict[Callable[..., None], str] = {
        serve: "Run the service: API and worker.",
        worker: "Run another worker.",
        migrate: "Bring the database tables to this version.",
        submit: "Upload a file and start a job on it.",
        watch: "Show a job's progress until it ends.",
        sweep: "Submit several jobs at once, or show them ranked.",
        jobs.jobs: "List jobs.",
        jobs.show: "Show a job: state, verdict, what comes next.",
        jobs.logs: "Print what a job's trainers printed.",
        jobs.report: "Write a job as one HTML file.",
        push: "Send a result to a hub, a store or MLflow.",
        bom: "Write a result's bill of materials.",
        pack: "Pack a job for an auditor, in one folder.",
        jobs.cancel: "Cancel jobs.",
        jobs.pause: "Pause jobs.",
        jobs.resume: "Resume paused jobs.",
        jobs.rm: "Delete jobs that have ended.",
        preview: "Show what a freeze policy would freeze.",
        mcp: "Serve tools for agents (Model Context Protocol).",
        doctor: "Check the installation, and repair it.",
        backup: "Copy the whole service into a folder.",
        restore: "Restore a backup.",
    }
    for command, short in commands.items():
        app.command(short_help=short)(command)  # the docstring's first line is cut in a list of commands
    groups = {"models": models, "files": files, "secrets": secrets, "import": imports, "keys": keys, "base": base}
    for name, group in groups.items():
        app.add_typer(group, name=name)
    # main() handles these before typer is imported; they are registered for the list of commands only.
    app.command("verify", help="Check an attestation against files, offline.")(main)
    app.command("reproduce", help="Train a result again from its recipe, and compare every bit.")(main)
    app.command("prove-example", help="Prove that a job trained on an example, or did not.")(main)
    app.command("check-example", help="Check such a proof, offline.")(main)
    app.command("log", help="Check the transparency log against what you kept of it.")(main)
    app.command("diff", help="Show what changed between two models' files.")(main)
    return app


def serve(host: str | None = None, port: int | None = None, worker: bool = True) -> None:
    """Run the API, and a worker in a child process unless --no-worker is given. Creates missing database tables.

    --host and --port override PERMAFROST_HOST (127.0.0.1) and PERMAFROST_PORT (8000); port 0 picks a free port.
    """
    from app.cli.serve import serve as run
    from app.settings import Settings

    options: JsonDict = {"host": host, "port": port}
    run(Settings(**{name: value for name, value in options.items() if value is not None}), with_worker=worker)


def worker(once: bool = False, wait: float = 60.0) -> None:
    """Run a worker: it takes jobs from the queue and trains them on this machine's devices.

    With --once it ends after one job, or when none has come within --wait seconds: for autoscalers.
    """
    import os

    options = ["--once", "--wait", str(wait)] if once else []
    os.execv(sys.executable, [sys.executable, "-P", "-m", "worker", *options])


def in_the_worker(module: str) -> None:
    """Run a command that needs the worker's installation, since it trains or orders examples as the trainer does."""
    import os

    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *sys.argv[2:]])


if __name__ == "__main__":
    main()
