"""The arrows between packages hold: by import-linter's contracts, and by `sys.modules` of fresh interpreters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = """
import json, sys
before = set(sys.modules)
__import__(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
TORCH = {"torch", "transformers", "peft", "datasets", "safetensors", "accelerate"}
WEB = {"fastapi", "starlette", "uvicorn"}
SUPERVISOR = sorted(
    "worker.supervisor" if path.stem == "__init__" else f"worker.supervisor.{path.stem}"
    for path in (ROOT / "worker" / "supervisor").glob("*.py")
)
#: What a bare Python has, and the one package that checking signatures needs, with its own binary modules.
FOR_AUDITORS = set(sys.stdlib_module_names) | {"cryptography", "_cffi_backend", "_openssl", "app"}


def loaded_by(module: str) -> set[str]:
    """Top-level packages that importing the module brings into a fresh interpreter."""
    command = [sys.executable, "-W", "error", "-c", PROBE, module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_contracts_of_import_linter_hold() -> None:
    """`lint-imports` finds no import against the contracts in pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["app.main", "app.cli.main"])
def test_the_api_starts_without_torch_and_worker(module: str) -> None:
    """The API and the command load neither torch and its companions nor anything of `worker`."""
    assert loaded_by(module).isdisjoint(TORCH | {"worker"})


@pytest.mark.parametrize("module", ["worker.tasks", *SUPERVISOR])
def test_the_worker_process_has_neither_torch_nor_fastapi(module: str) -> None:
    """The supervisor trains nothing and serves nothing: torch stays in the trainer, FastAPI in the API."""
    assert loaded_by(module).isdisjoint(TORCH | WEB)


@pytest.mark.parametrize("module", ["app.evidence.verifier.verify", "app.freeze.plan"])
def test_the_verifier_needs_no_more_than_python_and_cryptography(module: str) -> None:
    """An auditor's machine needs the standard library and `cryptography`, and nothing else."""
    assert loaded_by(module) - FOR_AUDITORS == set()


def test_the_trainer_does_load_torch() -> None:
    """The probe sees torch where it belongs, so that its absence elsewhere means something."""
    assert "torch" in loaded_by("worker.trainer.main")


def test_the_trainer_cannot_reach_database_broker_or_web() -> None:
    """The process that runs other people's models has no code for the database, the broker or HTTP serving."""
    assert loaded_by("worker.trainer.main").isdisjoint({"sqlalchemy", "celery", "redis"} | WEB)
