"""What the API costs to start: `import app.main` in fresh interpreters, seconds and memory, without torch."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.figure import Figure

RUNS = 7
PROBE = """
import json, resource, sys, time
began, busy = time.perf_counter(), time.process_time()
import app.main
seconds, busy = time.perf_counter() - began, time.process_time() - busy
mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "busy": busy, "mib": mib, "torch": "torch" in sys.modules}))
"""


def figures() -> Iterable[Figure]:
    probes = [probe() for _ in range(RUNS)]
    yield Figure("import app.main, median", statistics.median(p["seconds"] for p in probes), "s", "at most 1.5")
    yield Figure("import app.main, processor time", statistics.median(p["busy"] for p in probes), "s")
    yield Figure("import app.main, peak memory", statistics.median(p["mib"] for p in probes), "MiB", "at most 120")
    yield Figure("import app.main loads torch", "yes" if any(p["torch"] for p in probes) else "no", "", "no")


def probe() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PERMAFROST_DATA_DIR": folder, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", PROBE], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    return dict(json.loads(done.stdout))
