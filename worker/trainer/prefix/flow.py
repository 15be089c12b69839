"""One pass through a model written down: which operation read and wrote which memory, within which module's call."""

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
    """`call` is the innermost module call around it, None for the objective's own operations."""

    call: Call | None
    reads: frozenset[Memory]
    writes: frozenset[Memory]
    name: str
    flops: int
    random: bool  # it drew from a generator
    leaks: bool  # its result went to Python, which may have decided by it


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module: the `nth` of this module in the pass."""

    path: str
    module: nn.Module
    parent: Call | None
    nth: int
    children: list[Call] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)  # of what it returned
    spec: TreeSpec | None = None

    def within(self, other: Call) -> bool:
        call: Call | None = self
        while call is not None and call is not other:
            call = call.parent
        return call is other

    @property
    def outputs(self) -> frozenset[Memory]:
        return frozenset(memory(each) for each in self.leaves if isinstance(each, Tensor))


@dataclass(slots=True)
class Flow:
    """Operations and the ends of calls, in the order in which they happened; `final` is what the pass was made for."""

    events: list[Op | Call]
    roots: list[Call]
    final: frozenset[Memory]


def follow(model: nn.Module, compute: Callable[[], Iterable[Tensor]]) -> Flow:
    """Run `compute`, which calls `model`, without gradients, and write down what happened."""
    recorder = _Recorder(model)
    with torch.no_grad(), recorder.hooked(), recorder:
        results = list(compute())
    return Flow(recorder.events, recorder.roots, frozenset(memory(each) for each in results))


def memory(tensor: Tensor) -> Memory:
    return int(tensor.untyped_storage()._cdata)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Op | Call] = []
        self.roots: list[Call] = []
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[Call] = []
        self._counts: dict[str, int] = {}
        self._alive: list[Any] = []  # memory that is freed could be given to another tensor

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
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        before = _generators(given) if seeded else []
        output = func(*args, **kwargs)
        made = [each for each in tree_leaves(output) if isinstance(each, Tensor)]
        self._alive += (given, made)
        reads = frozenset(map(memory, given))
        count = flop_registry.get(func._overloadpacket)
        self.events.append(
            Op(
                call=self._stack[-1] if self._stack else None,
                reads=reads,
                writes=(frozenset(map(memory, made)) - reads) | _mutated(func, args, kwargs),  # a view writes nothing
                name=str(func),
                flops=int(count(*args, **kwargs, out_val=output)) if count else 0,
                random=seeded and any(not torch.equal(a, b) for a, b in zip(before, _generators(given), strict=True)),
                leaks=not made and bool(given) and not func._schema.is_mutable,
            )
        )
        return output


class _Hooks:
    """Every module's calls are told to the recorder while this is entered."""

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
    """Arguments that the operation's schema says it writes to."""
    if not func._schema.is_mutable:
        return frozenset()
    found: set[Memory] = set()
    for at, argument in enumerate(func._schema.arguments):
        value = args[at] if at < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            found |= {memory(each) for each in tree_leaves(value) if isinstance(each, Tensor)}
    return frozenset(found)


def _generators(given: list[Tensor]) -> list[Tensor]:
    devices = {each.device for each in given if each.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in sorted(devices, key=str))]
