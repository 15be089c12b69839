"""What the trainer says of its own run, for the signed recipe: its word, which the supervisor signs as such."""

from __future__ import annotations

import math

from app.evidence.format.examples import examples_root
from app.jsontypes import JsonDict
from worker.trainer import determinism
from worker.trainer.data.examples_root import TrainedExamples
from worker.trainer.freeze.quantised_parts import shape_of
from worker.trainer.models import quantised
from worker.trainer.training.loop import Ending, Run


def own_word(run: Run, ending: Ending) -> JsonDict:
    """A run that has ended, under the names that the recipe has."""
    job, state = run.job, run.state
    attention = getattr(getattr(state.model, "config", None), "_attn_implementation", None)
    losses = [point["loss"] for point in run.progress.history if "loss" in point]
    return {
        "steps": ending.steps,
        "totalSteps": job.total_steps,
        "resultStep": ending.result_step if ending.result_step != ending.steps else None,
        "tokens": ending.tokens,
        "flops": _flops(run, ending),
        "loss": losses[-1] if losses else None,
        "hyperparameters": job.settings.to_json(),
        "environment": determinism.environment(
            job.device, attention=attention, group=job.group, quantiser=quantised.package_of(state.model)
        ),
        "padding": state.padding,
        "prefix": run.passes.prefix is not None,
        "microBatchSize": state.micro_batch_size,
        "exact": not determinism.relaxed and not any(each["differs"] for each in state.resumed),
        "notDeterministic": list(determinism.relaxed),
        "resumed": [each["step"] for each in state.resumed],
        "examples": _examples(run, ending.steps),
    }


def _examples(run: Run, steps: int) -> JsonDict:
    splits = run.job.splits
    trained = TrainedExamples(
        splits.training, run.job.sampler, steps=steps, labels=splits.written, folder=splits.folder
    )
    root = examples_root(trained.keys(), trained.steps_by_key())
    return {"count": root.count, "root": root.root}


def _flops(run: Run, ending: Ending) -> int:
    """An estimate: 2 operations per token and weight forward, and 4 more for each weight that trains.

    Where the data has no tokens, an example counts as one.
    """
    sampler = run.job.sampler
    epochs, rest = divmod(ending.steps, sampler.steps_per_epoch)
    units = ending.tokens or epochs * sampler.examples + min(rest * sampler.batch_size, sampler.examples)
    weights = sum(math.prod(shape_of(parameter) or parameter.shape) for parameter in run.state.model.parameters())
    trained = sum(parameter.numel() for parameter in run.state.parameters)
    return units * (2 * weights + 4 * trained)
