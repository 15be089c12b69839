"""`make fuzz`: Schemathesis makes requests from the OpenAPI document of a running service.

An answer that is a 5xx or breaks the schema fails. `FUZZ_SECONDS` bounds the time; a printed seed repeats a find.
Made-up ids find nothing, so a second run asks for objects that are there.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from demo import affine
from demo.service import Service

OPTIONS: Final = [
    *("--checks", "all", "--continue-on-failure", "--no-color"),
    # Not asked: that whatever fits the schema is accepted. A job must name a model and a file that exist.
    *("--exclude-checks", "positive_data_acceptance"),
    # Not asked either: these would send what the document describes to addresses made up on the way.
    *("--exclude-path-regex", "webhook_endpoints/.*/(test|deliveries)"),
]
#: Of the second run: operations on one object, but for those that would take it away.
OF_ONE: Final = [
    *("--include-path-regex", "/v1/(fine_tuning/jobs|files|models|webhook_endpoints)/[{]"),
    *("--exclude-method", "DELETE"),
]


def runs(url: str, folder: Path, ids: Mapping[str, str]) -> list[list[str]]:
    """The two commands; `ids` are objects that are there, by the name of their path parameter."""
    config = folder / "there.toml"
    config.write_text("[parameters]\n" + "".join(f'"path.{name}" = {json.dumps(id)}\n' for name, id in ids.items()))
    program = [sys.executable, "-m", "schemathesis.cli"]
    document = ["run", f"{url}/openapi.json"]
    return [
        [*program, *document, *OPTIONS],
        [*program, "--config-file", str(config), *document, *OPTIONS, *OF_ONE],
    ]


def main(arguments: Sequence[str]) -> int:
    seconds = int(os.environ.get("FUZZ_SECONDS", "300"))
    with tempfile.TemporaryDirectory(prefix="permafrost-fuzz-") as folder, Service(Path(folder)) as service:
        file = service.upload(affine.diabetes(), name="diabetes.jsonl")
        job = affine.submit(service, file, {"freeze": ["weight"]})
        ids = {"file_id": file, "fine_tuning_job_id": job, "model": f"init:{job}"}
        while not service.get(f"/v1/fine_tuning/jobs/{job}")["finished_at"]:
            time.sleep(0.1)  # the streams of a job that goes on would not end
        limit = ["--max-time", str(max(1, seconds // 2))]
        codes = [
            subprocess.run([*command, *limit, *arguments], check=False).returncode
            for command in runs(service.url, Path(folder), ids)
        ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
