"""Decides before the first step whether a run computes without padding, and in which way; an event says so.

`hyperparameters.padding_free` decides whether; docs/padding-free.md has what its values mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from app.errors import InvalidRequest
from app.specs.adapters import PromptTuningSpec
from app.specs.models import TransformersSpec
from app.specs.rules import TEXT
from worker.protocol import Reporter
from worker.trainer.data.batch import Batch
from worker.trainer.data.sampler import Positions
from worker.trainer.padding.groups import by_length
from worker.trainer.padding.layers import NoLayersError, PaddingFreeLayers
from worker.trainer.padding.removal import FIXED, Padding, Removal
from worker.trainer.training.objectives import LanguageModelling, Preference
from worker.trainer.training.padding_trial import difference
from worker.trainer.training.passes import Passes

PARAM: Final = "hyperparameters.padding_free"
LEAST: Final = 0.1  # of the positions that pass through a model; leaving out less is not worth it
SAMPLE: Final = 20  # steps whose batches are looked at


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the positions of a run's padded batches: how many are padding, and how many micro-batches would save."""

    padding: float
    saved_by_micro_batches: float


def begin(passes: Passes, reporter: Reporter, *, earlier: Padding | None) -> Removal:
    """The way to compute. `earlier` is that of the attempt whose checkpoint the run goes on from, which is kept to.

    InvalidRequest where the job wants padding left out and the model does not give the same without it.
    """
    setting, job = passes.job.settings.padding_free, passes.job
    if setting is False or job.task not in TEXT:
        return Removal()
    if earlier is not None:
        try:
            return again(passes, earlier)
        except NoLayersError as error:  # as another version of transformers may have it
            reporter.event(f"padding is computed as well, unlike before: {error}", level="warn", padding="kept")
            return Removal()

    reason = _condition(passes)
    shares = _shares(passes) if reason is None else Shares(0.0, 0.0)
    if reason is None and setting == "auto" and shares.padding < LEAST:
        reason = f"it is {shares.padding:.0%} of what passes through the model, and less than {LEAST:.0%} saves nothing"
    if reason is None:
        removal, reason = _tried(passes, shares)
        if removal is not None:
            why = f" (not on one row of real tokens: {reason})" if reason else ""
            reporter.event(_sentence(removal.way, shares) + why, padding=removal.way)
            return removal
    if setting is True and shares.padding:
        raise InvalidRequest(f"padding_free is not possible here: {reason}; leave it out", param=PARAM)
    reporter.event(f"padding is computed as well: {reason}", padding="kept")
    return Removal()


def again(passes: Passes, way: Padding) -> Removal:
    """The way that an earlier attempt, or the run that is replayed, had chosen."""
    job = passes.job
    layers = _layers(passes) if way == "layers" else None
    return Removal(way, job.device.type, job.divisible, layers)


def _condition(passes: Passes) -> str | None:
    """Why padding stays, as far as it is known without a pass."""
    job = passes.job
    model = job.order.model
    if job.settings.packing:
        return "packing fills it with examples"
    if passes.prefix is not None and not passes.prefix.prefix.reads_inputs:
        return "every layer that sees it is frozen, and results are kept without it"
    if job.settings.compile:
        return "the model is compiled, and would be anew for every batch"
    if job.group.sharded:
        return "the model is sharded over several devices"
    if isinstance(model, TransformersSpec) and isinstance(model.adapter, PromptTuningSpec):
        return "prompt tuning puts tokens of its own before each row"
    return None


def _tried(passes: Passes, shares: Shares) -> tuple[Removal | None, str]:
    """The first way that gives the loss and gradients of padded rows, or None, and why earlier ones do not."""
    job = passes.job
    chosen = _most_padded(passes)
    reasons = []
    # Where the frozen prefix's results are kept, what is left of a pass may be too little to be divided.
    ways: tuple[Padding, ...] = ("layers", "micro_batches") if passes.prefix is None else ("layers",)
    for way in ways:
        if way == "micro_batches" and job.settings.padding_free == "auto" and shares.saved_by_micro_batches < LEAST:
            reasons.append(f"micro-batches of similar length would save {shares.saved_by_micro_batches:.0%}")
            continue
        try:
            removal = again(passes, way)
        except NoLayersError as error:
            reasons.append(str(error))
            continue
        problem = difference(passes, removal, chosen)
        if not job.group.any(problem is not None):
            return removal, "; ".join(reasons)
        removal.remove()
        reasons.append(problem or "another rank found a difference")
    return None, "; ".join(reasons)


def _layers(passes: Passes) -> PaddingFreeLayers:
    return PaddingFreeLayers(
        passes.state.model, next_token=isinstance(passes.objective, LanguageModelling | Preference)
    )


def _shares(passes: Passes) -> Shares:
    """Over the batches of the first steps, which depend on data and seed alone."""
    job = passes.job
    tokens = positions = grouped = 0
    for step in range(1, min(SAMPLE, job.sampler.steps_per_epoch) + 1):
        for chosen in _micro_batches(passes, step):
            lengths, width = _lengths(job.training.batch(chosen))
            groups = by_length(lengths, fixed=FIXED[job.device.type])
            tokens += int(lengths.sum())
            positions += len(lengths) * width
            grouped += sum(len(rows) * int(lengths[rows[-1]]) for rows in groups)
    return Shares(1 - tokens / positions, 1 - grouped / positions)


def _most_padded(passes: Passes) -> Positions:
    """Three examples of one of the first micro-batches, the shortest and the longest among them."""
    best, most = None, -1.0
    job = passes.job
    for step in range(1, min(SAMPLE, job.sampler.steps_per_epoch) + 1):
        for chosen in _micro_batches(passes, step):
            lengths, width = _lengths(job.training.batch(chosen))
            by_example = lengths.reshape(-1, len(chosen)).sum(axis=0)
            order = np.argsort(by_example, kind="stable")
            share = 1 - int(lengths.sum()) / (len(lengths) * width)
            if share > most:
                best, most = chosen[order[sorted({0, len(order) // 2, len(order) - 1})]], share
    assert best is not None
    return best


def _micro_batches(passes: Passes, step: int) -> list[Positions]:
    positions, size = passes.job.sampler.positions(step), passes.state.micro_batch_size
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _lengths(batch: Batch) -> tuple[np.ndarray, int]:
    """Tokens of each row, and the width of all."""
    return batch.inputs["attention_mask"].sum(dim=1).numpy(), batch.width


def _sentence(way: Padding, shares: Shares) -> str:
    saved = shares.padding if way == "layers" else shares.saved_by_micro_batches
    how = "the layers run on real tokens alone" if way == "layers" else "examples of similar length pass together"
    return f"computed without padding: {how}, {1 / (1 - saved):.1f} times fewer positions than in padded batches"
