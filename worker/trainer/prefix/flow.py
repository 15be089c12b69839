"""A recorded pass through a model: which operation read and wrote which memory, in which module's call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves
from torch.utils.flop_counter import flop_registry

Memory = int  # identity of a storage


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `call` is the innermost module call around it, None for the objective's own operations."""

    call: Call | None
    reads: frozenset[Memory]
    writes: frozenset[Memory]
    name: str
    flops: int
    nbytes: int  # of what it wrote
    random: bool  # whether it drew from a random generator
    leaks: bool  # whether its result went to Python, where it may have decided what came next


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module: the `nth` of this module in the pass."""

    path: str
    module: nn.Module
    parent: Call | None
    nth: int
    children: list[Call] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)  # of the pytree that it returned
    spec: TreeSpec | None = None

    @property
    def outputs(self) -> frozenset[Memory]:
        return frozenset(memory(leaf) for leaf in self.leaves if isinstance(leaf, Tensor))


@dataclass(slots=True)
class Flow:
    """Operations and the ends of calls in the order in which they happened.

    `final` is the memory of the results, `inputs` that of the batch.
    """

    events: list[Op | Call]
    roots: list[Call]
    final: frozenset[Memory]
    inputs: frozenset[Memory] = frozenset()


def follow(model: nn.Module, compute: Callable[[], Iterable[Tensor]], *, inputs: Iterable[Tensor] = ()) -> Flow:
    """Run `compute`, which calls `model` on a batch with these `inputs`, without gradients, and record it."""
    recorder = _Recorder(model)
    with torch.no_grad(), recorder.hooked(), recorder:
        results = list(compute())
    return Flow(recorder.events, recorder.roots, frozenset(map(memory, results)), frozenset(map(memory, inputs)))


def memory(tensor: Tensor) -> Memory:
    """The identity of the tensor's storage, the same for all views of it."""
    return int(tensor.untyped_storage()._cdata)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Op | Call] = []
        self.roots: list[Call] = []
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[Call] = []
        self._counts: dict[str, int] = {}
        self._alive: list[Any] = []  # the memory of a freed tensor could be given to another one

    def hooked(self) -> _Hooks:
        return _Hooks(self)

    def enter(self, module: nn.Module, arguments: Any) -> None:
        path = self._paths.get(id(module))
        if path is None:
            return
        parent = self._stack[-1] if self._stack else None
        nth = self._counts.get(path, 0)
        self._counts[path] = nth + 1
        call = Call(path, module, parent, nth)
        (parent.children if parent else self.roots).append(call)
        self._stack.append(call)

    def leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if id(module) not in self._paths or not self._stack or self._stack[-1].module is not module:
            return
        call = self._stack.pop()
        call.leaves, call.spec = tree_flatten(output)
        self.events.append(call)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        before = _generators(inputs) if seeded else []

        output = func(*args, **kwargs)

        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        self._alive += (inputs, outputs)
        reads = frozenset(map(memory, inputs))
        writes = (frozenset(map(memory, outputs)) - reads) | _mutated(func, args, kwargs)  # a view writes nothing
        count = flop_registry.get(func._overloadpacket)
        self.events.append(
            Op(
                call=self._stack[-1] if self._stack else None,
                reads=reads,
                writes=writes,
                name=str(func),
                flops=int(count(*args, **kwargs, out_val=output)) if count else 0,
                nbytes=sum(tensor.nbytes for tensor in outputs if memory(tensor) in writes),
                random=seeded and any(not torch.equal(a, b) for a, b in zip(before, _generators(inputs), strict=True)),
                leaks=not outputs and bool(inputs) and not func._schema.is_mutable,
            )
        )
        return output


class _Hooks:
    """While entered, every module's calls go to the recorder."""

    def __init__(self, recorder: _Recorder) -> None:
        self._recorder = recorder
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [
            hooks.register_module_forward_pre_hook(self._recorder.enter),
            hooks.register_module_forward_hook(self._recorder.leave),
        ]

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def _mutated(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[Memory]:
    """The memory of the arguments that the operation's schema marks as written."""
    if not func._schema.is_mutable:
        return frozenset()
    written: set[Memory] = set()
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {memory(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}
    return frozenset(written)


def _generators(inputs: list[Tensor]) -> list[Tensor]:
    """The state of each random generator that an operation on these tensors may draw from."""
    devices = {tensor.device for tensor in inputs if tensor.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in sorted(devices, key=str))]
