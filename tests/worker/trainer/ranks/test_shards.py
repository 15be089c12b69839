"""Fingerprints of a tensor that is cut over two ranks: those of the whole, however the rows fall."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tests.worker.trainer.attempts import work_order
from worker.protocol import Workspace
from worker.trainer.ranks.group import joined
from worker.trainer.ranks.launch import launch
from worker.trainer.witness.fingerprint import MULTILINEAR, Fingerprints
from worker.trainer.witness.multilinear import multilinear

SECRET = bytes(range(16))
SHAPES = [(7, 3), (1, 5), (5000, 3), (4, 1025), (2, 2, 2)]


def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    plain = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return plain + [each.to(torch.bfloat16) for each in plain]


def fingerprint_shards(folder: Path) -> None:
    torch.set_num_threads(1)
    order = work_order(
        job_id="ftjob-x",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        device="cpu",
        devices=2,
        strategy="fsdp",
    )
    with joined(order):
        mesh = init_device_mesh("cpu", (2,))
        prints = Fingerprints(SECRET)
        found = [prints.take(distribute_tensor(each, mesh, [Shard(0)])) for each in tensors()]
        assert all(not each.local and each.scheme == MULTILINEAR for each in found)
        path = folder / f"rank{os.environ['RANK']}.json"
        path.write_text(json.dumps([each.value for each in found]))


def test_sums_of_shards_are_those_of_the_whole(tmp_path: Path) -> None:
    """Rows that do not fall on a word, and a rank that holds nothing, included; both ranks get the same."""
    assert launch(Workspace(tmp_path), 2, fingerprint_shards) == 0
    raw = [each.reshape(-1).view(torch.uint8) for each in tensors()]
    wanted = ["".join(f"{lane:016x}" for lane in multilinear(each, SECRET)) for each in raw]
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == wanted
