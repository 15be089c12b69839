"""What checkpoints cost; and that every fault of the list is brought about by some test."""

import ast
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.chaos.faults import FAULTS
from tests.chaos.score import SHARE
from worker.trainer import checkpoint
from worker.trainer.training.checkpoint_writer import CheckpointWriter
from worker.trainer.training.hyperparameters import ResolvedHyperparameters

HERE = Path(__file__).parent


def test_checkpoint_cost(tmp_path: Path, record_property: Any) -> None:
    """Seconds that training stands still for one checkpoint of 20 million trained numbers, of the default interval."""
    model = nn.Linear(5_000, 4_000)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(5_000)).sum().backward()
    optimizer.step()
    interval = ResolvedHyperparameters.__dataclass_fields__["checkpoint_seconds"].default
    live = dict(model.named_parameters())
    with CheckpointWriter() as writer:
        for step in (1, 2, 3):
            began = time.monotonic()
            content = checkpoint.take(tensors=live, optimizer=optimizer, state={})
            writer.begin(partial(checkpoint.write, tmp_path, content, step=step, run="r", keep=2))  # type: ignore[arg-type]
            record_property(SHARE, (time.monotonic() - began) / interval)
            writer.wait()  # the next one is due much later
    assert checkpoint.newest(tmp_path, run="r", live=live, on_damage=lambda *_: None)


def test_every_fault_is_tried() -> None:
    """No number of the list is without a test."""
    tried: set[int] = set()
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                tried |= {each.value for each in node.args if isinstance(each, ast.Constant)}  # type: ignore[misc]
    assert tried == set(FAULTS)
