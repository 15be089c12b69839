"""Every subcommand of `permafrost`, with its line in the list of commands."""

import sys
from collections.abc import Callable
from typing import Annotated, Final

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
from app.jsontypes import JsonDict
from app.ops.backup.command import backup, restore
from app.ops.doctor.command import doctor


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


COMMANDS: Final[dict[Callable[..., None], str]] = {
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
    push: "Send a result to a hub, a store or a tracker.",
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
GROUPS: Final = {"models": models, "files": files, "secrets": secrets, "import": imports, "keys": keys, "base": base}
#: Those that `main` hands their arguments before typer is imported; they are here for the list.
OWN_PARSER: Final = {
    "verify": "Check an attestation against files, offline.",
    "reproduce": "Train a result again from its recipe, and compare every bit.",
    "prove-example": "Prove that a job trained on an example, or did not.",
    "check-example": "Check such a proof, offline.",
    "log": "Check the transparency log against what you kept of it.",
    "diff": "Show what changed between two models' files.",
}


def make_app() -> typer.Typer:
    """The command line, but for the commands that parse their own arguments."""
    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=settings
    )
    app.callback()(options)
    for command, short in COMMANDS.items():
        app.command(short_help=short)(command)  # the docstring's first line is cut in a list of commands
    for name, group in GROUPS.items():
        app.add_typer(group, name=name)
    for name, short in OWN_PARSER.items():
        app.command(name, help=short)(_handled_by_main)
    return app


def options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Fine-tuning jobs with signed evidence that the frozen weights did not change by a bit."""


def _handled_by_main() -> None:
    raise AssertionError("`main` runs this command itself")
