"""`make check` reads what is deployed: each of its tools finds a fault that is made here."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.manifests import ROOT, checks

FAULTS = {
    "hadolint": ("Dockerfile", "FROM debian:bookworm-slim AS python", "FROM debian AS python"),
    "kubernetes-validate": ("deploy/kubernetes/api.yaml", "replicas: 2", "replicas: two"),
    "compose-spec": ("docker-compose.yml", "stop_grace_period: 60s", "stop_grace_perod: 60s"),
    "github-workflows": (".github/workflows/ci.yml", "runs-on:", "run-on:"),
}


@pytest.mark.parametrize("tool", FAULTS)
def test_a_fault_is_found(tmp_path: Path, tool: str) -> None:
    """By the tool whose file it is in, and by no other; without it all of them are content."""
    for name in ("Dockerfile", ".hadolint.yaml", "docker-compose.yml", "docker-compose.gpu.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    file, right, wrong = FAULTS[tool]
    text = (tmp_path / file).read_text("utf-8")
    assert right in text
    (tmp_path / file).write_text(text.replace(right, wrong), "utf-8")

    failed = [line for line in checks(tmp_path) if subprocess.run(line, capture_output=True, check=False).returncode]
    assert len(failed) == 1 and any(tool in part for part in failed[0])
