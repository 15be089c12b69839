"""The commands of docs/devices.md: two agents of torchrun, as on two machines, over one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.servers import free_port
from tests.worker.trainer.attempts import Attempt, affine_order
from worker.protocol import Workspace

ROOT = Path(__file__).parents[4]


@pytest.mark.slow
def test_two_agents_train_one_job(tmp_path: Path) -> None:
    """Both end well, and the folder holds what any attempt leaves: a result, and readings without a violation."""
    affine_order(tmp_path, policy={"freeze": ["weight"]}).save(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--rdzv-id", "job1"]
    command += ["-m", "worker.trainer", str(tmp_path)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(2)]
    try:
        assert [agent.wait(PATIENCE) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.kill()
    done = Attempt(Workspace(tmp_path), 0)
    assert done.observations["verdict"] == "verified"
    assert {name for name, each in done.result.items() if each["from"] == "changed"} == {"bias"}
