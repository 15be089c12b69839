"""Checkpoints that earlier versions wrote are resumed by this one, with the bits that the earlier one would have given.

Each folder is the workspace of a job that was stopped: `mlp-adamw` (frozen rows, a schedule, accumulation, clipping,
validation) and `affine-sgd` were written by commit 71f50af. `digests.json` has the SHA-256 of every changed tensor
that the version of that day ended with.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.worker.trainer.attempts import attempt
from worker.protocol import WorkOrder
from worker.trainer.determinism import processor
from worker.trainer.witness.observe import raw

JOBS = sorted(path.parent for path in Path(__file__).parent.glob("checkpoints/*/digests.json"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_an_old_checkpoint_is_resumed_with_equal_bits(job: Path, tmp_path: Path) -> None:
    """Equal where the processor is of the kind that wrote it: others take other kernels for the same arithmetic."""
    workspace = shutil.copytree(job, tmp_path / "job")
    (saved,) = (workspace / "checkpoints").iterdir()
    threads = json.loads((saved / "state.json").read_text())["environment"]["threads"]
    assert threads == 1

    before = torch.get_num_threads()
    try:
        resumed = attempt(WorkOrder.load(workspace), workspace)
    finally:
        torch.set_num_threads(before)

    assert resumed.code == 0, resumed.failure
    step = int(saved.name.removeprefix("step-"))
    (event,) = [report for report in resumed.of("event") if report["message"].startswith(f"goes on after step {step}")]
    assert min(report["step"] for report in resumed.of("step")) > step
    if "exactly" in event["message"] and "AMD" in processor():
        found = {name: hashlib.sha256(raw(tensor)).hexdigest() for name, tensor in resumed.changed.items()}
        assert found == json.loads((job / "digests.json").read_text())
