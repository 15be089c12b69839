"""A secret of the service's surroundings shows up nowhere: not in a log, an event, an error, a metric or a file."""

import base64
import json
from pathlib import Path

import httpx2
import pytest

from tests.end_to_end.conftest import Running, Service
from tests.patience import PATIENCE
from tests.servers import free_port

CANARY = "canary-5f3a9e"
AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}
NAMES = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "SSH_AUTH_SOCK", "HTTPS_PROXY", "WANDB_API_KEY")


@pytest.mark.slow
def test_no_secret_is_left_by_jobs(tmp_path: Path) -> None:
    """A job that succeeds and one that fails, with secrets in the environment and keys on the disk."""
    port = free_port()
    data = tmp_path / "data"
    environment = {"PERMAFROST_DATA_DIR": str(data), "PERMAFROST_PORT": str(port), "PERMAFROST_DEVICES": "cpu"}
    secrets = {name: f"{CANARY}-{name.lower()}" for name in NAMES}
    process = Running(["app.cli.main", "serve"], environment | secrets | {"OMP_NUM_THREADS": "1"})
    said = ""
    try:
        process.says("permafrost ready")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1/", timeout=PATIENCE) as client:
            service = Service(environment, client, [process], "")  # type: ignore[arg-type]
            rows = [{"x": [n, n % 3], "y": n} for n in range(16)]
            file = service.upload("\n".join(map(json.dumps, rows)).encode(), "train.jsonl")
            wild = {"learning_rate": 1e30, "n_epochs": 4}
            for hyperparameters, expected in (({"n_epochs": 2}, "succeeded"), (wild, "failed")):
                body = {"model": AFFINE, "training_file": file, "freeze_policy": {"freeze": ["weight"]}}
                job = service.post("fine_tuning/jobs", {**body, "hyperparameters": hyperparameters})
                ended = service.ended(job["id"])
                assert ended["status"] == expected, ended
                said += json.dumps(ended)
                for part in ("events", "metrics", "evidence", "checkpoints", "parameters"):
                    said += client.get(f"fine_tuning/jobs/{job['id']}/{part}").text
            said += client.get("../metrics").text + client.get("audit_logs").text
    finally:
        process.stop()
    searched = said.encode() + "\n".join(process.lines).encode()
    keys = set((data / "keys").iterdir())
    for path in data.rglob("*"):
        searched += path.read_bytes() if path.is_file() and path not in keys else b""
    assert b"ftjob-" in searched and b"Job succeeded" in searched, "the search sees answers and the database"
    assert CANARY.encode() not in searched
    private: list[str] = [
        path.read_text().splitlines()[1] for path in keys if path.suffix == ".key" and b"PRIVATE" in path.read_bytes()
    ]
    assert private
    for body in private:  # type: ignore[assignment]
        assert body.encode() not in searched and base64.b64decode(body) not in searched  # type: ignore[arg-type, attr-defined]
