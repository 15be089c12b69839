"""`make fuzz`: Schemathesis makes requests from the OpenAPI document of a running service.

An answer that is a 5xx or breaks the schema fails. `FUZZ_SECONDS` bounds the time; a printed seed repeats a find.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from demo.service import Service


def main() -> int:
    schemathesis = str(Path(sys.executable).with_name("schemathesis"))
    seconds = os.environ.get("FUZZ_SECONDS", "300")
    with tempfile.TemporaryDirectory(prefix="permafrost-fuzz-") as folder, Service(Path(folder)) as service:
        schema = f"{service.url}/openapi.json"
        return subprocess.run(
            [schemathesis, "fuzz", schema, "--max-time", seconds, *sys.argv[1:]], check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
