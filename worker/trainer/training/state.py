"""What a run changes as it trains. Checkpoints save it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from app.jsontypes import JsonDict
from worker.trainer.freeze.apply import Frozen
from worker.trainer.padding.removal import Padding
from worker.trainer.training.master_weights import MasterWeights
from worker.trainer.training.patience import Patience


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """`steps_before` and `seconds_before` are those of earlier attempts, `resumed` the steps these ended after."""

    model: nn.Module
    frozen: Frozen
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    masters: MasterWeights
    patience: Patience
    micro_batch_size: int  # halved when memory runs out
    padding: Padding = "kept"
    steps_before: int = 0
    seconds_before: float = 0.0
    resumed: list[JsonDict] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(init=False)  # all that the optimizer ever gets
    peak_rates: list[float] = field(init=False)  # of each group, before the schedule

    def __post_init__(self) -> None:
        self.parameters = self.frozen.parameters()
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]

    def clear_gradients(self) -> None:
        """As the optimizer's `zero_grad`, which takes longer than a small step's arithmetic to find out what to do."""
        for parameter in self.parameters:
            parameter.grad = None
