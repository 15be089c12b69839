"""`make fuzz`: Schemathesis makes requests from the OpenAPI document of a running service.

An answer that is a 5xx or breaks the schema fails. `FUZZ_SECONDS` bounds the time; a printed seed repeats a find.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from demo.service import Service

OPTIONS = [
    *("--checks", "all", "--continue-on-failure"),
    # Not asked: that whatever fits the schema is accepted. A job must name a model and a file that exist.
    *("--exclude-checks", "positive_data_acceptance"),
    # Not asked either: these would send what the document describes to addresses made up on the way.
    *("--exclude-path-regex", "webhook_endpoints/.*/(test|deliveries)"),
]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="permafrost-fuzz-") as folder, Service(Path(folder)) as service:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", *OPTIONS]
        command += ["--max-time", os.environ.get("FUZZ_SECONDS", "300"), *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
