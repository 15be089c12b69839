"""Whether a run's frozen prefix may be computed once per example, and where the model is cut for it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from worker.trainer.data.batch import Batch
from worker.trainer.freeze.quantised_parts import scales
from worker.trainer.prefix.cut import Cut, UncuttableError, find
from worker.trainer.prefix.flow import Flow, follow, memory
from worker.trainer.prefix.sampling import two_batches
from worker.trainer.training.memory import ran_out
from worker.trainer.training.prefix_request import PrefixRequest

LEAST_SHARE = 0.1  # of a forward pass; keeping the results of less is not worth it
NO_PARAMETER = "no parameter is frozen for the whole run"
NOTHING = "no module that is frozen as a whole gives results that depend on the input alone"

Still = set[int]  # the memory of tensors that keep their bytes for the whole run
Pair = tuple[Batch, Batch]


def refuse_conditions(request: PrefixRequest) -> None:
    """UncuttableError for a reason that needs no pass through the model to be known."""
    policy = request.plan.policy
    if not policy.enforce:
        raise UncuttableError("in an audit (enforce: false) frozen tensors may move")
    if policy.on_violation == "continue":
        raise UncuttableError("with on_violation 'continue' training goes on with frozen tensors that moved")
    if not any(decision.kind == "parameter" for decision in request.plan.frozen):
        raise UncuttableError(NO_PARAMETER)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise UncuttableError("the run is on several devices")
    if request.compiled:
        raise UncuttableError("the model is compiled")
    if request.setting == "auto" and not request.reuse and not request.fixed:
        raise UncuttableError("every example is seen once")

    sparse = next((name for name, tensor in request.live.items() if tensor.layout is not torch.strided), None)
    if sparse is not None:
        raise UncuttableError(f"'{sparse}' is sparse, and its values cannot be followed through a pass")
    frozen = {memory(request.live[decision.name]) for decision in request.plan.frozen}
    if not any(_wholly_frozen(module, frozen) for module in request.model.modules()):
        raise UncuttableError(NOTHING)


def find_cut(request: PrefixRequest) -> tuple[Cut, Still]:
    """Where to cut, and which memory stays still. UncuttableError says why not.

    The model is tried with two small batches, in training and in eval mode, and is the same afterwards. With "auto" the
    cut must be possible in training mode, that is without turning dropout off.
    """
    first, second, sizes = two_batches(request.parts["training"])
    pair = (first.to(request.device), second.to(request.device))
    training, moved = _training_passes(request, pair)
    still = {memory(request.live[decision.name]) for decision in request.plan.frozen}
    still |= {memory(request.live[decision.name]) for decision in request.plan.tracked} - moved

    def is_still(tensor: torch.Tensor) -> bool:
        return memory(tensor) in still

    request.model.eval()
    evaluating = _passes(request, pair)
    request.model.train()
    cut = find(evaluating, sizes, still=is_still, model=request.model)
    _refuse_small(request, cut, "what is frozen for the whole run and depends on the input alone")
    if request.setting is True:  # what training mode reads of the inputs is not looked at
        return replace(cut, reads_inputs=True), still

    cut = find(training, sizes, still=is_still, model=request.model)
    _refuse_small(
        request,
        cut,
        "dropout acts in the frozen layers, and keeping their results would turn it off, which is another run "
        "(prefix_cache true asks for that); what is left of them",
    )
    return cut, still


def tensor_names(request: PrefixRequest, cut: Cut, still: Still) -> tuple[str, ...]:
    """Every still tensor of a served module, and the still buffers that its input may be computed from."""
    own = {
        memory(tensor)
        for module in cut.modules
        for tensor in (*module.parameters(), *module.buffers(), *scales(module))
    }
    own |= {memory(request.live[decision.name]) for decision in request.plan.tracked} & still
    return tuple(sorted(name for name, tensor in request.live.items() if memory(tensor) in own))


def _wholly_frozen(module: nn.Module, frozen: Still) -> bool:
    parameters = [memory(parameter) for parameter in module.parameters()]
    return bool(parameters) and frozen.issuperset(parameters)


def _refuse_small(request: PrefixRequest, cut: Cut, what: str) -> None:
    """Before `frozen_dropout` existed, arithmetic alone counted; jobs of that time go on by that rule."""
    if not cut.served:
        raise UncuttableError(NOTHING)
    share = cut.saved if request.fixed else cut.share
    if share < LEAST_SHARE:
        part = f"{max(0.0, share):.1%} of a forward pass"
        if request.fixed:
            part += " by counted cost, less that of fetching what is kept"
        raise UncuttableError(f"{what} is {part}, and less than {LEAST_SHARE:.0%} saves nothing")


def _passes(request: PrefixRequest, pair: Pair) -> tuple[Flow, Flow]:
    try:
        flows = [follow(request.model, partial(request.compute, each), inputs=each.inputs.values()) for each in pair]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if ran_out(error):
            raise
        raise UncuttableError(f"the model does not run on parts of its data: {error}") from error
    return flows[0], flows[1]


def _training_passes(request: PrefixRequest, pair: Pair) -> tuple[tuple[Flow, Flow], Still]:
    """Passes in training mode, and the memory of the buffers that they moved, which get their bytes back."""
    before = {decision.name: request.live[decision.name].clone() for decision in request.plan.tracked}
    request.model.train()
    flows = _passes(request, pair)
    moved = set()
    with torch.no_grad():
        for name, old in before.items():
            now = request.live[name]
            if not torch.equal(now.view(-1).view(torch.uint8), old.view(-1).view(torch.uint8)):
                moved.add(memory(now))
                now.copy_(old)
    return flows, moved
