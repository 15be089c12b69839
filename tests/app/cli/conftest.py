"""The `permafrost` command, run as a subprocess."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.cli.commands import ROOT, Command
from tests.patience import PATIENCE


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PERMAFROST_DATA_DIR": str(tmp_path / "data"), "PERMAFROST_PORT": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def permafrost(environment: dict[str, str]) -> Command:
    """Runs one command to its end."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli.main", *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


@pytest.fixture
def serving(environment: dict[str, str]) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts `permafrost serve` and returns it with its base URL, once it says that it is ready."""
    started: list[subprocess.Popen[str]] = []

    def serve(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "app.cli.main", "serve", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("permafrost ready"))
        match = re.search(r"(http://\S+)/v1", line)
        assert match is not None
        return process, match[1]

    yield serve
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
