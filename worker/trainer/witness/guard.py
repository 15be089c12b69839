"""A write-guard: sees every operation that torch dispatches and names the one that changed a watched tensor.

It compares the memory of watched tensors with that of the arguments that an operator's schema marks as written. So it
catches fused and foreach optimizers, `.data`, dlpack and flat aliases. It cannot see numpy, ctypes, other processes, or
a tensor that was replaced by another one.
"""

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worker.trainer.witness.fingerprint import shard

# Operators that write their running statistics without saying so in their schema.
_UNMARKED = {"aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm"}
_STATISTICS = ("running_mean", "running_var")

_OURS = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True)
class Write:
    """The operation after which a watched tensor had other bytes than it should."""

    name: str
    operation: str  # "aten::_fused_adamw_"
    where: str  # "train.py:42 in step"
    step: int = 0  # counted from 1

    def __str__(self) -> str:
        return f"{self.operation} at {self.where}"


class WriteGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Entered as a context. `drifted(name)` says whether a tensor has other bytes than it should.

    It is called before and after each operation that writes to the tensor's memory. The first operation around which
    the answer changes is recorded in `writes`.
    """

    def __init__(self, watched: Mapping[str, Tensor], drifted: Callable[[str], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes: dict[str, Write] = {}
        self.step = 1
        self._drifted = drifted
        self.watch(watched)

    def watch(self, watched: Mapping[str, Tensor]) -> None:
        """Replace the watched tensors by these, at the addresses they have now."""
        self._segments = _segments(watched)
        self._starts = [start for start, _, _ in self._segments]

    def next_step(self) -> None:
        self.step += 1

    def begin(self) -> None:
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        touched = {name for tensor in _written(func, args, kwargs) for name in self._touched(tensor)}
        unchanged = [name for name in touched - self.writes.keys() if not self._drifted(name)]

        result = func(*args, **kwargs)

        for name in unchanged:
            if self._drifted(name):
                self.writes[name] = Write(name, func._schema.name, line_of(caller(sys._getframe(1))), self.step)
        return result

    def _touched(self, tensor: Tensor) -> Iterator[str]:
        """Names of the watched tensors that share memory with this one."""
        start, stop = memory(tensor)
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._segments) and self._segments[index][0] < stop:
            _, end, spans = self._segments[index]
            if start < end:
                yield from (name for first, last, name in spans if first < stop and start < last)
            index += 1


def memory(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the tensor's first byte and of the one after its last; (0, 0) without memory of its own."""
    tensor = shard(tensor)
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # fake and functional tensors
        return (0, 0)
    if not start or not tensor.numel():
        return (0, 0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (start, start + (last + 1) * tensor.element_size())


def _segments(watched: Mapping[str, Tensor]) -> list[tuple[int, int, list[tuple[int, int, str]]]]:
    """Disjoint ranges of memory by address, each with the watched tensors in it as (start, stop, name)."""
    segments: list[tuple[int, int, list[tuple[int, int, str]]]] = []
    for start, stop, name in sorted((*memory(tensor), name) for name, tensor in watched.items()):
        if stop == 0:
            continue
        if segments and start < segments[-1][1]:
            first, end, spans = segments[-1]
            segments[-1] = (first, max(end, stop), [*spans, (start, stop, name)])
        else:
            segments.append((start, stop, [(start, stop, name)]))
    return segments


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments that it writes to."""
    schema = func._schema
    unmarked = schema.name in _UNMARKED
    for position, argument in enumerate(schema.arguments):
        marked = argument.alias_info is not None and argument.alias_info.is_write
        if not marked and not (unmarked and argument.name in _STATISTICS):
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Tensor):
                yield item


def caller(frame: FrameType) -> FrameType:
    """The innermost frame, from this one outwards, that is neither torch's nor the witness's."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_OURS, _TORCH)):
        frame = frame.f_back
    return frame


def line_of(frame: FrameType) -> str:
    """Where a frame is now, as "file:line in function"."""
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"


def _short(filename: str) -> str:
    """A path relative to the import path, so that it is the same on every machine."""
    roots = sorted((root for root in (*sys.path, str(Path.cwd())) if root), key=len, reverse=True)
    for root in roots:
        if filename.startswith(root.rstrip("/") + "/"):
            return filename[len(root.rstrip("/")) + 1 :]
    return filename
