"""The facts that decide whether a frozen prefix's results are kept; the same in every attempt at a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from app.freeze.plan import FreezePlan
from worker.protocol import Reporter
from worker.trainer.data.batch import Batch, Examples
from worker.trainer.prefix.kept_results import KeptResults
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training.stop import StopRequest

REPORT_SECONDS = 5.0

Compute = Callable[[Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixRequest:
    """`setting` is the job's `prefix_cache`: true, false or "auto". `compute` gives a batch's loss and outputs.

    `parts` are the data sets by name, of which `size` examples pass through the model at a time; training makes
    `passes` such passes. `reuse` says whether some example is seen more than once, `fixed` whether dropout is off
    inside wholly frozen modules. `shared` is the folder of results that the project's jobs share on this worker, to
    which this job may add `room` bytes.
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
    shared: Path | None = None
    room: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """The parts of a prefix's results that are being filled, by name of the data."""

    request: PrefixRequest
    prefix: Prefix
    results: Mapping[str, KeptResults]
    reporter: Reporter
    stop: StopRequest

    def report(self, name: str, done: int, reported: float) -> float:
        """An event every few seconds, since a silent trainer counts as hanging. Returns when the last one was."""
        now = time.monotonic()
        if now - reported < REPORT_SECONDS:
            return reported
        examples = len(self.request.parts[name])
        self.reporter.event(f"frozen prefix: {done} of {examples} examples of the {name} data are computed")
        return now
