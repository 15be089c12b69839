"""Tries a prefix before it is used: from kept results, a batch must give the loss and outputs that it gives live."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.trainer.data.batch import Batch
from worker.trainer.data.sampler import Positions
from worker.trainer.prefix.cut import UncuttableError
from worker.trainer.prefix.kept_results import KeptResults
from worker.trainer.prefix.sampling import in_order, lengths_of
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training.prefix_request import PrefixRequest


def refuse_other_results(request: PrefixRequest, prefix: Prefix) -> None:
    """UncuttableError unless a batch gives the same from results that were kept row by row, in other batches.

    Results that nothing should read are NaN during the trial, so a use that the cut did not foresee shows as well.
    """
    positions = _short_to_long(request)
    batch = request.parts["training"].batch(positions).to(request.device)
    assert batch.rows is not None
    request.model.eval()
    try:
        values = _kept_in_halves(request, prefix, positions, batch)
        with torch.no_grad():
            live = _without_padding(request, batch)
            with prefix.served(values, rows=len(batch.rows), width=batch.width):
                kept = _without_padding(request, batch)
            if not prefix.reads_inputs:
                prefix.reads_inputs = not _same_without_inputs(request, prefix, positions, values)
        if request.setting == "auto":
            _refuse_other_results_in_training(request, prefix, batch)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UncuttableError(f"its forward does not run without it: {error}") from error
    finally:
        request.model.train()

    tolerance = 1e-3 if all(leaf.dtype.itemsize >= 4 for leaf in prefix.cut.kept) else 0.1
    if not all(_near(one, other, tolerance) for one, other in zip(live, kept, strict=True)):
        raise UncuttableError("from kept results the model gives something else, so it uses more than was found")


def _same_without_inputs(
    request: PrefixRequest, prefix: Prefix, positions: Positions, values: Sequence[Tensor]
) -> bool:
    """Whether a pass from kept results gives the same bits where the batch's inputs hold nothing."""
    examples = request.parts["training"]
    results = []
    for make in (examples.batch, examples.outline):
        batch = make(positions).to(request.device)
        assert batch.rows is not None
        with prefix.served(values, rows=len(batch.rows), width=batch.width):
            results.append(request.compute(batch))
    return all(_same_bits(one, other) for one, other in zip(*results, strict=True))


def _short_to_long(request: PrefixRequest) -> Positions:
    """Four examples of different length, or fewer."""
    order = list(in_order(request.parts["training"], 1))
    chosen = sorted({0, len(order) // 3, 2 * len(order) // 3, len(order) - 1})
    return np.concatenate([order[index] for index in chosen])


def _kept_in_halves(request: PrefixRequest, prefix: Prefix, positions: Positions, batch: Batch) -> list[Tensor]:
    """The prefix's results for `batch`, computed in two batches of other widths and put together from their rows."""
    examples = request.parts["training"]
    assert batch.rows is not None
    lengths = lengths_of(batch, examples) if batch.width else None
    index_of = {int(row): index for index, row in enumerate(batch.rows)}
    results = KeptResults(prefix.cut.kept, len(batch.rows), lengths=lengths)
    for part in np.array_split(positions, 2) if len(positions) > 1 else [positions]:
        half = examples.batch(part).to(request.device)
        assert half.rows is not None
        captured = prefix.capture(lambda half=half: request.compute(half))  # type: ignore[misc]
        results.put(np.array([index_of[int(row)] for row in half.rows]), captured)
    return [value.to(request.device) for value in results.get(np.arange(len(batch.rows)), batch.width)]


def _without_padding(request: PrefixRequest, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss and outputs, without the outputs at positions that only fill a row up."""
    (loss, outputs), mask = request.compute(batch), batch.inputs.get("attention_mask")
    return loss, outputs if mask is None or outputs.shape[:-1] != mask.shape else outputs[mask.bool()]


def _refuse_other_results_in_training(request: PrefixRequest, prefix: Prefix, batch: Batch) -> None:
    """UncuttableError unless the prefix gives the same bits in training mode as in eval mode."""
    evaluating = prefix.capture(lambda: request.compute(batch))
    training = prefix.capture(lambda: request.compute(batch), training=True)
    if not all(_same_bits(one, other) for one, other in zip(evaluating, training, strict=True)):
        raise UncuttableError(
            "the frozen layers compute something else in training than in eval mode, and keeping results is eval mode "
            "(prefix_cache true asks for that)"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(*(tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)))


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    first, second = one.double(), other.double()
    if first.shape != second.shape or not torch.isfinite(second).equal(torch.isfinite(first)):
        return False
    absolute = tolerance * _scale(first)
    return bool(torch.allclose(first.nan_to_num(), second.nan_to_num(), rtol=tolerance, atol=absolute))


def _scale(values: Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return max(1e-6, float(finite.abs().max())) if len(finite) else 1.0
