"""The command line as a subprocess."""

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]


Command = Callable[..., subprocess.CompletedProcess[str]]
