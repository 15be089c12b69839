"""What a worker runs is found without importing it."""

import subprocess
from pathlib import Path

from worker.supervisor.installation import code_digest, lock_digest, packages

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
