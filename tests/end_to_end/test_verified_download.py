"""`permafrost models get --verify`: a folder appears once everything in it is verified, or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.evidence.format.keys import load_or_create
from tests.end_to_end.conftest import Service
from tests.patience import PATIENCE

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}


@pytest.fixture(scope="module")
def model(service: Service) -> str:
    lines = b"".join(json.dumps({"x": [n, n % 3], "y": n}).encode() + b"\n" for n in range(16))
    body = {"model": AFFINE, "training_file": service.upload(lines, "a.jsonl"), "freeze_policy": {"freeze": ["weight"]}}
    return str(service.ended(service.post("fine_tuning/jobs", body)["id"])["fine_tuned_model"])


def get(service: Service, model: str, folder: Path, key: Path) -> "subprocess.CompletedProcess[str]":
    address = str(service.client.base_url).removesuffix("/v1/")
    command = [sys.executable, "-m", "app.cli.main", "models", "get", model, str(folder), "--verify", str(key)]
    return subprocess.run(
        [*command, "--server", address], env=os.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_verified_or_not_there(service: Service, model: str, tmp_path: Path) -> None:
    """By the service's key, with the attestation beside the files; another key, and a base, leave nothing behind."""
    place = tmp_path / "adapters"
    done = get(service, model, place / "support", service.settings.signing_key_path.with_suffix(".pub"))
    assert done.returncode == 0, done.stderr
    assert "VERIFIED" in done.stderr and (place / "support" / "attestation.json").is_file()
    assert [path.name for path in place.iterdir()] == ["support"]

    load_or_create(tmp_path / "other.key")
    done = get(service, model, place / "other", tmp_path / "other.pub")
    assert done.returncode == 1 and "REJECTED" in done.stderr, done.stderr
    assert [path.name for path in place.iterdir()] == ["support"]
