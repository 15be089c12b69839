"""What the API costs to start: `import app.main` in fresh interpreters, seconds and memory, without torch; and the
service as its container starts it, until `/readyz` says that it can serve.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import psutil

from benchmarks.figure import Figure

RUNS = 7
#: Between looks whether it is ready.
LOOK_SECONDS = 0.01
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
    with tempfile.TemporaryDirectory() as folder:
        start(folder)  # makes the database, as an upgrade does before the container starts
        starts = [start(folder) for _ in range(RUNS)]
    yield Figure("permafrost serve --no-worker until ready, median", statistics.median(s for s, _ in starts), "s", "2")
    yield Figure(
        "permafrost serve --no-worker until ready, processor time", statistics.median(c for _, c in starts), "s"
    )


def start(folder: str) -> tuple[float, float]:
    """Seconds until `/readyz` answers 200, by the clock and of the processor."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PERMAFROST_DATA_DIR": folder, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "app.cli.main", "serve", "--no-worker", "--port", str(port)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not answers(f"http://127.0.0.1:{port}/readyz"):
            if process.poll() is not None:
                raise RuntimeError(f"permafrost serve ended with code {process.returncode}")
            time.sleep(LOOK_SECONDS)
        taken, busy = time.perf_counter() - began, psutil.Process(process.pid).cpu_times()
        return taken, busy.user + busy.system
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    """By the standard library alone: a child's peak memory begins with what its parent has loaded."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def probe() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PERMAFROST_DATA_DIR": folder, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", PROBE], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    return dict(json.loads(done.stdout))
