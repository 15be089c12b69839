"""Jobs over an encoder whose vocabulary takes many pages, and in whose passes a test may write to frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.bert.modeling_bert import BertEncoder

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import data, work_order
from worker.protocol import WorkOrder, Workspace

VOCABULARY = "bert.embeddings.word_embeddings.weight"
POLICY = {"freeze": ["bert.**"]}
Write = Callable[[torch.nn.Module], Any]


def encoder_order(root: Path, *, policy: dict[str, Any] = POLICY, **hyperparameters: Any) -> WorkOrder:
    """A head on a frozen encoder of 2 MB."""
    place = Workspace(root).create()
    tiny.bert(place.base, vocab_size=16384)
    rows = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS)]
    options = {"n_epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "prefix_cache": False}
    return work_order(
        job_id="ftjob-readonly",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="text-classification",
        data=data(place, rows),
        hyperparameters=options | hyperparameters,
        policy=policy,
        evidence={"overhead_budget": 0.0},
        seed=4,
        device="cpu",
    )


def in_each_step(monkeypatch: pytest.MonkeyPatch, write: Write) -> list[int]:
    """Have `write` called with the encoder's stack of layers in each forward pass of training. Counts the passes."""
    plain, passes = BertEncoder.forward, []

    def forward(self: BertEncoder, *arguments: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            passes.append(1)
            write(self)
        return plain(self, *arguments, **named)

    monkeypatch.setattr(BertEncoder, "forward", forward)
    return passes
