"""Passes without gradients: over the validation examples, and for the base's answers in preference training."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from worker.trainer.data.preference import PreferenceExamples
from worker.trainer.data.sampler import sequential
from worker.trainer.training.meters import in_turns, merged
from worker.trainer.training.objectives import Meter, Metrics, Preference
from worker.trainer.training.passes import Passes


@torch.no_grad()
def evaluate(passes: Passes, step: int) -> Metrics:
    """Loss and the task's metrics over the validation examples, with dropout off."""
    model, group = passes.state.model, passes.job.group
    model.eval()
    meter, losses = passes.repeated(f"the evaluation after step {step}", partial(_measure, passes))
    model.train()
    in_order = in_turns(group.gather(losses))
    loss = sum(total for total, _ in in_order) / max(1, sum(weight for _, weight in in_order))
    return {"loss": loss, **merged(group, meter).metrics()}


def _measure(passes: Passes) -> tuple[Meter, list[tuple[float, int]]]:
    """What this rank's validation batches give: a meter, and each batch's summed loss and weight."""
    job = passes.job
    assert job.validation is not None
    meter, losses = passes.objective.meter(), []
    for positions, counts in job.group.deal(sequential(len(job.validation), passes.state.micro_batch_size)):
        total, weight = 0.0, 0
        for piece in passes.removal.pieces(positions, job.validation):
            batch = passes.batch(piece, job.validation).to(job.device)
            with passes.removal.computing(batch) as given:
                summed, outputs = passes.forward(given, job.validation)
            if counts:
                meter.add(outputs, given)
                total, weight = total + float(summed.item()), weight + batch.weight
        if counts:
            losses.append((total, weight))
    return meter, losses


@torch.no_grad()
def fill_in_reference(passes: Passes, objective: Preference) -> None:
    """Give each preference example the base's log-probabilities. Call while the model still is the base."""
    passes.state.model.eval()
    for examples in (passes.job.training, passes.job.validation):
        if isinstance(examples, PreferenceExamples):
            work = partial(_log_probabilities, passes, objective, examples)
            examples.reference = passes.repeated("the reference's pass", work)
    passes.state.model.train()


def _log_probabilities(passes: Passes, objective: Preference, examples: PreferenceExamples) -> Tensor:
    """(examples, 2): of each chosen and rejected answer."""
    parts = []
    for positions in sequential(len(examples), passes.state.micro_batch_size):
        batch = examples.batch(positions).to(passes.job.device)
        with passes.autocast():
            parts.append(objective.log_probabilities(passes.state.model, batch).cpu())
    return torch.cat(parts)
