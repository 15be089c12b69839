"""What a thread is at, in the words of its source."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from worker.trainer.readonly.position import Position, innermost


class Weight:
    """Takes the position of whoever calls one of its methods."""

    def __init__(self) -> None:
        self.taken: Position | None = None

    def take(self, *_: object, **__: object) -> Any:
        self.taken = Position.of(sys._getframe(1))
        return self

    add_ = fill = numpy = __iadd__ = __ilshift__ = __setitem__ = __delitem__ = take


def in_place(w: Weight) -> None:
    w.add_(1)


def over_lines(w: Weight) -> None:
    w.fill(
        1,
        more=(2, 3),
    )


def chained(w: Weight) -> None:
    w.numpy().fill(0)


def sign(w: Weight) -> None:
    w += 1


def shift(w: Weight) -> None:
    w <<= 1


def item(w: Weight) -> None:
    w[1:2, 3] = 4


def long(w: Weight) -> None:
    names = {"a name that is somewhat longer than anybody would write": w}
    names["a name that is somewhat longer than anybody would write"].numpy().numpy().fill(0)


@pytest.mark.parametrize(
    ("write", "operation"),
    [
        (in_place, "aten::add_"),
        (over_lines, "w.fill"),
        (chained, "w.numpy().fill"),
        (sign, "+="),
        (shift, "<<="),
        (item, "[...] ="),
        (long, "would write'].numpy().numpy().fill"),
    ],
)
def test_operations(write: Callable[[Weight], None], operation: str) -> None:
    """torch's in-place ones by their own name, others as they are written, within 80 characters."""
    weight = Weight()
    write(weight)
    assert weight.taken is not None
    assert weight.taken.operation.endswith(operation) and len(weight.taken.operation) <= 80
    where = weight.taken.where
    assert where.startswith("tests/worker/trainer/readonly/test_position.py:")
    assert where.endswith(f" in {write.__name__}")


def test_without_source() -> None:
    """The function is said, where no line of it can be read."""
    space: dict[str, Any] = {}
    exec(compile("def written(w):\n    w.fill(0)", "<nowhere>", "exec"), space)
    weight = Weight()
    space["written"](weight)
    assert weight.taken is not None
    assert (weight.taken.operation, weight.taken.where) == ("a write in written", "<nowhere>:2 in written")


class Number(Weight):
    """Is asked by native functions what it is."""

    def __float__(self) -> float:
        self.taken = Position.of(sys._getframe(1))
        return 0.5

    @classmethod
    def __torch_function__(cls, function: object, types: object, args: Any = (), kwargs: object = None) -> None:
        args[0][0].taken = Position.of(sys._getframe(1))


def test_a_native_function_under_another_name() -> None:
    """torch's optimizers call what they chose `func`."""
    number = Number()
    func: Any = torch._fused_adamw_
    func([number], [], [], [], [], [], amsgrad=False, lr=0, beta1=0, beta2=0, weight_decay=0, eps=0, maximize=False)
    assert number.taken is not None and number.taken.operation == "aten::_fused_adamw_"
    func = math.sin
    func(number)
    assert number.taken.operation == "sin"


def test_threads_by_number() -> None:
    """A thread that runs Python has a frame of its own; for any other one it is that of the thread it works for."""
    ready, done = threading.Event(), threading.Event()

    def wait() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    try:
        assert thread.native_id is not None
        frame = innermost(thread.native_id, threading.get_ident())
        assert frame is not None
        names = []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        assert "wait" in names
        own = innermost(2**31 - 1, threading.get_ident())
        assert own is not None and own.f_code.co_name == "test_threads_by_number"
    finally:
        done.set()
        thread.join()
