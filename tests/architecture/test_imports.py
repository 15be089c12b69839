"""The arrows between packages hold: by import-linter's contracts, and by `sys.modules` of fresh interpreters."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = """
import json, sys
loaded = {}
for module in sys.argv[1:]:
    before = set(sys.modules)
    __import__(module)
    loaded[module] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps(loaded))
"""
TORCH = {"torch", "transformers", "peft", "datasets", "safetensors", "accelerate"}
TRAINER = "worker.trainer.main"
WEB = {"fastapi", "starlette", "uvicorn"}
SUPERVISOR = sorted(
    "worker.supervisor" if path.stem == "__init__" else f"worker.supervisor.{path.stem}"
    for path in (ROOT / "worker" / "supervisor").glob("*.py")
)
#: What a bare Python has, and the one package that checking signatures needs, with its own binary modules.
FOR_AUDITORS = set(sys.stdlib_module_names) | {"cryptography", "_cffi_backend", "_openssl", "app"}


@cache
def loaded_by(*modules: str) -> dict[str, set[str]]:
    """Top-level packages that each module brings into one fresh interpreter, in which they are imported in turn."""
    command = [sys.executable, "-W", "error", "-c", PROBE, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {module: set(packages) for module, packages in json.loads(done.stdout).items()}


def test_the_contracts_of_import_linter_hold() -> None:
    """`lint-imports` finds no import against the contracts in pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_starts_without_torch_and_worker() -> None:
    """The API and the command load neither torch and its companions nor anything of `worker`."""
    for module, packages in loaded_by("app.main", "app.cli.main").items():
        assert packages.isdisjoint(TORCH | {"worker"}), module


def test_the_command_line_starts_without_the_database() -> None:
    """Most commands ask a server over HTTP: what only some need is imported by those that run."""
    assert loaded_by("app.cli.commands")["app.cli.commands"].isdisjoint({"sqlalchemy", "fastapi", "alembic"})


def test_the_worker_process_has_neither_torch_nor_fastapi() -> None:
    """The supervisor trains nothing and serves nothing: torch stays in the trainer, FastAPI in the API."""
    for module, packages in loaded_by("worker.tasks", *SUPERVISOR).items():
        assert packages.isdisjoint(TORCH | WEB), module


@pytest.mark.parametrize("module", ["app.evidence.verifier.verify", "app.freeze.plan"])
def test_the_verifier_needs_no_more_than_python_and_cryptography(module: str) -> None:
    """An auditor's machine needs the standard library and `cryptography`, and nothing else."""
    assert loaded_by(module)[module] - FOR_AUDITORS == set()


def test_the_trainer_does_load_torch() -> None:
    """The probe sees torch where it belongs, so that its absence elsewhere means something."""
    assert "torch" in loaded_by(TRAINER)[TRAINER]


def test_the_trainer_cannot_reach_database_broker_or_web() -> None:
    """The process that runs other people's models has no code for the database, the broker or HTTP serving."""
    assert loaded_by(TRAINER)[TRAINER].isdisjoint({"sqlalchemy", "celery", "redis"} | WEB)
