"""Tries a way of leaving padding out: it must give the loss and the gradients of padded rows, up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.trainer.data.sampler import Positions
from worker.trainer.padding.attention import GROUPED
from worker.trainer.padding.removal import Removal
from worker.trainer.training.memory import ran_out
from worker.trainer.training.passes import Passes

#: Of a gradient's norm, or of the loss: sums in another order differ by less than a tenth of it.
TOLERANCE = {torch.float32: 5e-4, torch.float64: 5e-4}
COARSE = 5e-2  # in half precision
#: Gradients that are zero but for rounding are held against this share of the whole gradient.
FLOOR = 1e-2

Gradients = list[Tensor | None]


def difference(passes: Passes, removal: Removal, positions: Positions) -> str | None:
    """What differs without padding, in a pass over these examples with dropout off; None where nothing does."""
    model = passes.state.model
    model.eval()
    try:
        padded = _computed(passes, Removal(), positions)
        GROUPED.calls = 0
        without = _computed(passes, removal, positions)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        if ran_out(error):
            return "the trial ran out of memory"
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return f"the model does not run without it: {first_line}"
    finally:
        model.train()
    if removal.way == "layers" and not GROUPED.calls:
        if passes.prefix is not None:
            return "the frozen prefix's results stand in for every layer"
        return "its attention is not called through transformers' interface"
    return _compared(passes, padded, without)


def _computed(passes: Passes, removal: Removal, positions: Positions) -> tuple[float, Gradients]:
    """Loss and gradients. In full precision where the weights are, so that rounding hides no difference."""
    parameters = [each for each in passes.state.parameters if each.requires_grad]
    loss = 0.0
    gradients: Gradients = [None] * len(parameters)
    for piece in removal.pieces(positions, passes.job.training):
        batch = passes.job.training.batch(piece).to(passes.job.device)
        with removal.computing(batch) as given:
            with passes.serving(given, passes.job.training):
                summed = passes.compute_once(given, autocast=not _full_precision(passes))[0]
            found = torch.autograd.grad(summed, parameters, allow_unused=True) if parameters else ()
        loss += float(summed.detach())
        gradients = [_sum(one, other) for one, other in zip(gradients, found, strict=True)]
    return loss, gradients


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


def _full_precision(passes: Passes) -> bool:
    return all(each.dtype in TOLERANCE for each in passes.state.model.parameters() if each.is_floating_point())


def _compared(passes: Passes, padded: tuple[float, Gradients], without: tuple[float, Gradients]) -> str | None:
    (loss, gradients), (other_loss, other_gradients) = padded, without
    tolerance = TOLERANCE[torch.float32] if _full_precision(passes) else COARSE
    if not abs(loss - other_loss) <= tolerance * max(abs(loss), 1e-6):
        return f"the model gives another loss without it ({other_loss:.6g} for {loss:.6g})"

    whole = sum(float(each.double().square().sum()) for each in gradients if each is not None) ** 0.5
    for one, other in zip(gradients, other_gradients, strict=True):
        apart, norm = _apart(one, other)
        if not apart <= tolerance * max(norm, FLOOR * whole):
            return "the model gives other gradients without it"
    return None


def _apart(one: Tensor | None, other: Tensor | None) -> tuple[float, float]:
    """The norm of the difference, and of `one`. A gradient that there is not counts as zero."""
    first, second = (0.0 if each is None else each.double() for each in (one, other))
    apart = first - second
    norms = [float(each.norm()) if isinstance(each, Tensor) else 0.0 for each in (apart, first)]
    return norms[0], norms[1]
