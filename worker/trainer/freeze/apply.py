"""Applies a freeze plan to a live model: mechanisms, pinned modules, and the parameters for the optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from app.errors import PolicyError
from app.freeze.plan import Decision, FreezePlan
from worker.trainer.freeze import param_group, requires_grad
from worker.trainer.freeze.class_patch import ROWS, ClassPatch, patch_class, unpatch_class
from worker.trainer.freeze.fixed import fixed_modules
from worker.trainer.freeze.inventory import tied
from worker.trainer.freeze.pin import Pin, pins, unpinnable
from worker.trainer.freeze.refusals import refuse as refuse
from worker.trainer.freeze.schedule import Groups, frozen_after
from worker.trainer.freeze.split import SplitParameter
from worker.trainer.freeze.tensor_refs import TensorRef


def freeze(model: nn.Module, plan: FreezePlan, *, dropout: bool = True) -> "Frozen":
    """Applies the plan to a model on its final device: after tying and sharding, before optimizer and torch.compile.

    Without `dropout`, modules that are frozen as a whole for the whole run stay in eval mode with all in them.
    In audit mode (`enforce: false`) nothing is applied, and every parameter that takes gradients is trained.
    Raises PolicyError for a frozen tensor that its own module would change and that cannot be pinned.
    """
    return Frozen(model, plan, dropout=dropout)


@dataclass(frozen=True, slots=True)
class _PlannedTensor:
    """One decision of the plan, with every name that its tensor has in the model."""

    decision: Decision
    refs: list[TensorRef]

    @property
    def parameter(self) -> nn.Parameter:
        tensor = self.refs[0].tensor
        assert isinstance(tensor, nn.Parameter)
        return tensor


class Frozen:
    """A model with a freeze plan applied. `model` keeps its names, its `state_dict` and its parameters."""

    def __init__(self, model: nn.Module, plan: FreezePlan, *, dropout: bool = True) -> None:
        self.model = model
        self.plan = plan
        self.warnings: tuple[str, ...] = ()
        self._tensors = _tensors(model, plan)
        self._rows: dict[str, SplitParameter] = {}
        self._hooks: list[RemovableHandle] = []
        self._pins: list[Pin] = []
        self._patches: dict[nn.Module, ClassPatch] = {}
        self._groups: Groups | None = None
        self._now: frozenset[str] = frozenset()
        self._enforced = plan.policy.enforce
        self.fixed: list[nn.Module] = []  # modules that stay in eval mode with all in them
        if self._enforced:
            self.fixed = [] if dropout else fixed_modules(model, self._frozen_for_good())
            self._split()
            self._set(self._frozen_after(0))

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters for the optimizer, in the model's order: trained and scheduled tensors, and trainable rows.

        Trainable rows are named `tensor[start:stop]`. A scheduled tensor is listed also while it is frozen; `at_step`
        keeps it out of the optimizer's group until it thaws.
        """
        if not self._enforced:
            return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

        chosen: list[tuple[str, nn.Parameter]] = []
        for tensor in self._tensors:
            name, decision = tensor.decision.name, tensor.decision
            if decision.kind != "parameter":
                continue
            if name in self._rows:
                rows = self._rows[name]
                spans = [f"{name}[{start}:{stop}]" for start, stop in rows.ranges]
                chosen.extend(zip(spans, rows.slices, strict=True))
            elif (decision.action == "train" or decision.scheduled) and requires_grad.can_train(tensor.parameter):
                chosen.append((name, tensor.parameter))
        return chosen

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of `named_parameters`, for the optimizer and for gradient clipping."""
        return [parameter for _, parameter in self.named_parameters()]

    def at_step(self, step: int, optimizer: Optimizer) -> list[str]:
        """Freezes and thaws what the schedule says for the update after `step` (0 before the first).

        Returns the names that changed sides. Call it before the optimizer's state is loaded on resume, and after
        each step. The outcome depends on `step` alone, not on earlier calls.
        """
        if not self._enforced:
            return []
        first = self._groups is None or self._groups.optimizer is not optimizer
        if not (first or self.plan.scheduled):
            return []  # at every step of most runs

        frozen = self._frozen_after(step)
        changed = frozen ^ self._now
        if first:
            self._groups = Groups(optimizer)
        if changed:
            self._set(frozen)
        if changed or first:
            assert self._groups is not None
            self._groups.keep_out([t.parameter for t in self._tensors if self._is_out(t)])
        return sorted(changed)

    @contextmanager
    def removed(self) -> Iterator[nn.Module]:
        """The plain model, for state_dict(), export and torch.save: modules behave as they were built."""
        for module in self._patches:
            unpatch_class(module)
        try:
            yield self.model
        finally:
            for module, patch in self._patches.items():
                patch_class(module, patch)

    def _frozen_after(self, step: int) -> frozenset[str]:
        return frozenset(t.decision.name for t in self._tensors if frozen_after(t.decision, step))

    def _frozen_for_good(self) -> Iterator[Tensor]:
        names = {decision.name for decision in self.plan.frozen}
        for tensor in self._tensors:
            if tensor.decision.name in names:
                yield from (ref.tensor for ref in tensor.refs if ref.tensor is not None)

    def _is_out(self, tensor: _PlannedTensor) -> bool:
        return tensor.decision.kind == "parameter" and tensor.decision.name in self._now

    def _split(self) -> None:
        for tensor in self._tensors:
            if tensor.decision.action != "split":
                continue
            if hasattr(tensor.parameter, "full_tensor"):
                problem = f"rows of '{tensor.decision.name}' cannot be frozen while it is sharded; use one device"
                raise PolicyError(problem, param="freeze_policy")
            rows = SplitParameter(tensor.parameter, tensor.decision.trainable_rows)
            self._rows[tensor.decision.name] = rows
            for ref in tensor.refs:
                ref.module.__dict__.setdefault(ROWS, {})[ref.leaf] = rows

    def _set(self, frozen: frozenset[str]) -> None:
        """Freezes exactly these tensors, from scratch: it runs once per change of the schedule."""
        self._clear()
        for tensor in self._tensors:
            if tensor.decision.kind == "parameter":
                self._set_parameter(tensor, tensor.decision.name in frozen)
        self._pin([ref for t in self._tensors if t.decision.name in frozen or self._split_one(t) for ref in t.refs])
        for module in self.fixed:
            self._patch_of(module).fixed = True
        for module, patch in self._patches.items():
            patch_class(module, patch)
        self._now = frozen

    def _split_one(self, tensor: _PlannedTensor) -> bool:
        return tensor.decision.name in self._rows

    def _set_parameter(self, tensor: _PlannedTensor, frozen: bool) -> None:
        parameter, mechanism = tensor.parameter, tensor.decision.mechanism
        if self._split_one(tensor):
            requires_grad.freeze(parameter)
            for ref in tensor.refs:
                self._patch_of(ref.module).joined.add(ref.leaf)
        elif not frozen:
            requires_grad.thaw(parameter)
        elif mechanism == "requires_grad" or not requires_grad.can_train(parameter):
            requires_grad.freeze(parameter)
        else:
            # With detach as well: code that reads `_parameters` directly would leave a gradient.
            self._hooks.append(param_group.freeze(parameter))
            if mechanism == "detach":
                for ref in tensor.refs:
                    self._patch_of(ref.module).detached.add(ref.leaf)

    def _pin(self, frozen: list[TensorRef]) -> None:
        reasons = unpinnable(frozen)
        if reasons:
            raise PolicyError("; ".join(reasons), param="freeze_policy")
        self._pins = pins(frozen)
        self.warnings = tuple(pin.warning for pin in self._pins if pin.warning)
        for pin in self._pins:
            if pin.eval or pin.inert:
                patch = self._patch_of(pin.module)
                patch.eval, patch.inert = pin.eval, pin.inert
            if pin.max_norm is not None:
                pin.module.max_norm = None  # type: ignore[assignment]

    def _clear(self) -> None:
        for handle in self._hooks:
            handle.remove()
        for pin in self._pins:
            if pin.max_norm is not None:
                pin.module.max_norm = pin.max_norm  # type: ignore[assignment]
        for module, patch in self._patches.items():
            unpatch_class(module)
            if patch.eval or patch.fixed:
                module.train(self.model.training)
        self._hooks, self._pins, self._patches = [], [], {}

    def _patch_of(self, module: nn.Module) -> ClassPatch:
        return self._patches.setdefault(module, ClassPatch())


def _tensors(model: nn.Module, plan: FreezePlan) -> list[_PlannedTensor]:
    """The plan's decisions with their tensors, in the model's order. PolicyError where plan and model do not fit."""
    undecided = {decision.name: decision for decision in plan.decisions}
    planned: list[_PlannedTensor] = []
    for group in tied(model):
        decision = undecided.pop(group[0].name, None)
        if decision is None or tuple(ref.name for ref in group[1:]) != decision.aliases:
            raise PolicyError(
                f"the plan was made for another model: it lacks '{group[0].name}', or has other ties for it"
            )
        planned.append(_PlannedTensor(decision, group))

    if undecided:
        raise PolicyError(f"the plan was made for another model: this one has no '{next(iter(undecided))}'")
    return planned
