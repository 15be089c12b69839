"""Runs a job's batches through its model, in smaller parts when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from worker.protocol import Reporter
from worker.trainer import determinism
from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.sampler import Positions
from worker.trainer.padding.removal import Removal
from worker.trainer.ranks.gradients import combine
from worker.trainer.training import memory, quick_step
from worker.trainer.training.job import TrainingJob
from worker.trainer.training.objectives import Objective
from worker.trainer.training.prefix_cache import PrefixCache
from worker.trainer.training.state import TrainingState

T = TypeVar("T")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True, kw_only=True)
class Passes:
    """Forward and backward passes of one run.

    `shaped` pads batches as a compiled model needs them. `prefix` serves the frozen prefix's results, if they are kept.
    `removal` leaves padding out.
    """

    job: TrainingJob
    state: TrainingState
    objective: Objective
    reporter: Reporter
    shaped: Callable[[Batch], Batch] = lambda batch: batch
    prefix: PrefixCache | None = None
    removal: Removal = field(default_factory=Removal)

    def gradients(self, step: int) -> float:
        """Compute the step's gradients and return its loss, the mean over the whole step on all ranks.

        When memory runs out on any rank, all start the step again with micro-batches of half the size.
        """
        job, state = self.job, self.state
        while True:
            random, out_of_memory, loss = memory.generators(job.device), "on another rank", None
            batches = self._micro_batches(step)
            weight = max(1, int(job.group.total([sum(batch.weight for batch in batches)])[0]))
            try:
                loss = self._deterministic(partial(self._accumulate, batches, weight))
            except RuntimeError as error:
                if not (memory.ran_out(error) and self._can_halve()):
                    raise
                out_of_memory = str(error).splitlines()[0]
            total = combine(job.group, loss, state.parameters)
            if total is not None:
                return total

            # After the except clause, which holds on to the tensors of the failed pass.
            state.clear_gradients()
            memory.give_back(job.device, random)
            self._halve(f"step {step}", out_of_memory)

    def repeated(self, when: str, work: Callable[[], T]) -> T:
        """The result of `work`, passes without gradients, repeated in smaller parts when memory runs out on any rank.

        `when` is for the event: "the evaluation after step 8".
        """
        while True:
            random, out_of_memory = memory.generators(self.job.device), None
            try:
                result = work()
            except RuntimeError as error:
                if not (memory.ran_out(error) and self._can_halve()):
                    raise
                out_of_memory = str(error).splitlines()[0]
            if not self.job.group.any(out_of_memory is not None):
                return result
            memory.give_back(self.job.device, random)
            self._halve(when, out_of_memory or "on another rank")

    def batch(self, positions: Positions, examples: Examples) -> Batch:
        """The examples at these positions, with what `forward` needs of them."""
        return examples.batch(positions) if self.prefix is None else self.prefix.batch(positions, examples)

    def forward(self, batch: Batch, examples: Examples) -> tuple[Tensor, Tensor]:
        """Loss (summed over the batch) and outputs, from the frozen prefix's kept results where there are any."""
        with self.serving(batch, examples):
            return self.compute(self.shaped(batch) if self.prefix is None else batch)

    def serving(self, batch: Batch, examples: Examples) -> AbstractContextManager[None]:
        """Inside, a pass over this batch starts from the frozen prefix's results, if they are kept."""
        return nullcontext() if self.prefix is None else self.prefix.serving(batch, examples)

    def compute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss (summed over the batch) and outputs, in the run's precision."""
        with self.autocast():
            return self.objective.loss(self.state.model, batch)

    def compute_padded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`compute` with padding, also inside a pass without: the frozen prefix's results are of padded rows."""
        with self.removal.pausing():
            return self.compute(batch)

    def compute_once(self, batch: Batch, *, autocast: bool = True) -> tuple[Tensor, Tensor]:
        """`compute`, where an operation without a deterministic kernel is met for the first time."""
        plain = partial(self.objective.loss, self.state.model)
        return self._deterministic(partial(self.compute if autocast else plain, batch))

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = AUTOCAST.get(self.job.settings.precision)
        return nullcontext() if dtype is None else torch.autocast(self.job.device.type, dtype=dtype)

    def _micro_batches(self, step: int) -> list[Batch]:
        """This rank's share of the step's examples. A batch that only keeps ranks in step has no weight."""
        job = self.job
        batches = []
        for positions, counts in job.group.passes(job.sampler.positions(step), self.state.micro_batch_size):
            for piece in self.removal.pieces(positions, job.training):
                batch = self.batch(piece, job.training)
                batches.append(batch if counts else replace(batch, weight=0))
        return batches

    def _accumulate(self, batches: list[Batch], weight: int) -> float:
        """Add up the gradients of the mean loss over a step of `weight`; returns this rank's part of that mean."""
        self.state.clear_gradients()  # of a pass that was given up
        total: Tensor | None = None
        for batch in batches:
            with self.removal.computing(batch.to(self.job.device)) as given:
                summed = self.forward(given, self.job.training)[0]  # the outputs, as wide as a vocabulary, are not kept
                if batch.weight and not self.state.scaler.is_enabled():
                    mean = quick_step.backward(summed, weight)
                else:
                    scaled = summed / weight if batch.weight else summed * 0.0
                    self.state.scaler.scale(scaled).backward()  # type: ignore[no-untyped-call]
                    mean = scaled.detach()
            total = mean if total is None else total + mean
        return 0.0 if total is None else float(total.item())

    def _deterministic(self, work: Callable[[], T]) -> T:
        """Let an operation without a deterministic kernel through with a warning, rather than fail the job."""
        try:
            return work()
        except RuntimeError as error:
            if not determinism.relax(error):
                raise
            first_line = str(error).splitlines()[0]
            message = f"not deterministic, so a resumed run may differ in its last bits: {first_line}"
            self.reporter.event(message, level="warn")
            return work()

    def _can_halve(self) -> bool:
        """Ranks with shards of one model wait for each other inside a pass, so they cannot repeat it."""
        return self.state.micro_batch_size > 1 and self.job.divisible and not self.job.group.sharded

    def _halve(self, when: str, out_of_memory: str) -> None:
        size = self.state.micro_batch_size = -(-self.state.micro_batch_size // 2)
        message = (
            f"out of memory in {when}: micro-batches have {size} examples from here on, a step "
            f"still {self.job.settings.batch_size} ({out_of_memory})"
        )
        self.reporter.event(message, level="warn", micro_batch_size=size)
