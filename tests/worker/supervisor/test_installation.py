"""What a worker runs is found without importing it."""

import subprocess
from pathlib import Path

import pytest

from worker.supervisor import installation
from worker.supervisor.installation import code_digest, lock_digest, packages, read_installation

ROOT = Path(__file__).parents[3]


def test_the_digest_of_the_code_can_be_computed_by_hand() -> None:
    """With find, sort and sha256sum in the folder of the code."""
    by_hand = "find app worker -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1"
    done = subprocess.run(["sh", "-c", by_hand], cwd=ROOT, capture_output=True, text=True, check=True)
    assert code_digest() == done.stdout.strip()


def test_lock_and_versions() -> None:
    """The lock beside the code, and the packages that train."""
    done = subprocess.run(["sha256sum", "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert lock_digest() == done.stdout.split()[0]
    assert {"python", "numpy"} <= packages().keys()


def test_what_runs_is_what_was_there_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An upgrade of the files under a running worker is in no recipe of its jobs."""
    read_installation()
    before = code_digest(), lock_digest(), packages()
    monkeypatch.setattr(installation, "_ROOT", tmp_path)
    assert (code_digest(), lock_digest(), packages()) == before
