"""A trainer's entry whose model writes to a frozen weight, for a child process."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from transformers.models.bert.modeling_bert import BertEncoder

from worker.trainer.main import run


def writing(folder: Path) -> None:
    """The stack of layers adds to the vocabulary, which it finds in the process's memory, in its fourth pass."""
    plain, passes = BertEncoder.forward, [0]

    def forward(self: BertEncoder, *arguments: Any, **named: Any) -> Any:
        passes[0] += torch.is_grad_enabled()
        if passes[0] == 4:
            for found in gc.get_objects():
                if isinstance(found, torch.nn.Parameter) and found.shape[0] == 16384:
                    found.data.add_(1.0)
        return plain(self, *arguments, **named)

    BertEncoder.forward = forward
    run(folder)
