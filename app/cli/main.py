"""The `permafrost` command. Each subcommand imports what it needs, so that `permafrost verify` starts at once."""

import gc
import sys

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
    if name in ("--version", "version"):
        from app import __version__

        print(f"permafrost {__version__}")
        return
    from app.cli.errors import exit_with_message

    with exit_with_message():
        from app.cli.commands import make_app

        make_app()(prog_name="permafrost")  # also where it is run as a module: completion goes by this name


def in_the_worker(module: str) -> None:
    """Run a command that needs the worker's installation, since it trains or orders examples as the trainer does."""
    import os

    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *sys.argv[2:]])


if __name__ == "__main__":
    main()
