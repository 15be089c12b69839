"""The facts that decide whether a frozen prefix's results are kept; the same in every attempt at a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.freeze.plan import FreezePlan
from worker.trainer.data.batch import Batch, Examples

Compute = Callable[[Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixRequest:
    """`setting` is the job's `prefix_cache`: true, false or "auto". `compute` gives a batch's loss and outputs.

    `parts` are the data sets by name, of which `size` examples pass through the model at a time; training makes
    `passes` such passes. `reuse` says whether some example is seen more than once, `fixed` whether dropout is off
    inside wholly frozen modules.
    """

    setting: bool | str
    model: nn.Module
    plan: FreezePlan
    live: Mapping[str, Tensor]
    compute: Compute
    parts: Mapping[str, Examples]
    size: int
    passes: int
    reuse: bool
    device: torch.device
    precision: str
    compiled: bool = False
    fixed: bool = False
