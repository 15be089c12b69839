"""Names of worker processes."""

import os
import subprocess
import sys

from worker.supervisor.identity import identity


def test_name_is_of_this_process_alone() -> None:
    """The same at every call, with this process's number in it; another process has another name."""
    assert identity() == identity()
    assert str(os.getpid()) in identity().split("/")
    code = "from worker.supervisor.identity import identity; print(identity())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other != identity() and other.count("/") == 3
