"""Every example runs as it stands, against a service as its users start it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Running
from tests.servers import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TRAIN_TWO_TOWERS = """
import json, sys, time
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
rows = "\\n".join(json.dumps({"x": [i, 1.0], "y": 2.0 * i}) for i in range(8))
file = client.files.create(file=("rows.jsonl", rows.encode()), purpose="fine-tune")
model = {"type": "torch", "architecture": "two_towers", "kwargs": {"in_features": 2}}
policy = {"freeze": ["reference.**"]}
extra = {"model": model, "freeze_policy": policy}
job = client.fine_tuning.jobs.create(model="two_towers", training_file=file.id, extra_body=extra)
while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
    time.sleep(0.1)
print(job.status, job.model_extra["evidence"]["verdict"], job.model_extra["evidence"]["frozen_tensors"])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example's package is installed, as pip would install it into an environment."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(EXAMPLES / "own_architecture", source)  # building leaves its own files beside the sources
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[str]:
    port = free_port()
    environment = {
        "PERMAFROST_DATA_DIR": str(tmp_path_factory.mktemp("service")),
        "PERMAFROST_PORT": str(port),
        "PERMAFROST_DEVICES": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{site}",
    }
    running = Running(["app.cli.main", "serve"], environment)
    try:
        running.says("permafrost ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.stop()


def run(command: list[str | Path], service: str = "") -> str:
    """Run a command in the environment of these tests, with `permafrost` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PERMAFROST_URL": service, "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_sdk_script_brings_home_what_can_be_verified(service: str, tmp_path: Path) -> None:
    """The job succeeds, and the command that the script prints accepts what it fetched."""
    printed = run([sys.executable, EXAMPLES / "openai_sdk.py", tmp_path], service).splitlines()
    assert printed[-2] == "succeeded, evidence verified"
    assert "VERIFIED, level 1" in run(["bash", "-c", printed[-1]])


def test_the_curl_script_ends_with_a_verified_result(service: str, tmp_path: Path) -> None:
    """Level 2: the base's root pins the frozen bytes."""
    printed = run([EXAMPLES / "job.sh", tmp_path / "out"], service)
    assert "succeeded, evidence verified" in printed and "VERIFIED, level 2" in printed


def test_an_installed_architecture_is_trained(service: str) -> None:
    """The entry point of a package of one's own names it; the tower of four tensors stays frozen."""
    assert run([sys.executable, "-c", TRAIN_TWO_TOWERS, service]).strip() == "succeeded verified 4"


def test_the_witness_watches_the_trainer() -> None:
    """Verified where weights are frozen, violated where their gradient is zero and decay moves them."""
    printed = run([sys.executable, EXAMPLES / "witness_in_trainer.py"])
    assert "frozen with requires_grad=False: verified" in printed
    assert "frozen with gradients of zero: violated" in printed


def test_every_example_is_listed() -> None:
    """In the folder's README."""
    page = (EXAMPLES / "README.md").read_text("utf-8")
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert {name for name in names if name not in page} == set()
