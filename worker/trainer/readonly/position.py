"""Where Python's threads are: the operation that a thread was at, in the words of its source, and the caller's line."""

from __future__ import annotations

import ast
import linecache
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType

import torch

from worker.trainer.witness.guard import caller, line_of

_OURS = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Position:
    """Taken while a frame runs, put into words later: the source is not read where a signal is handled."""

    code: CodeType
    instruction: int
    natives: dict[str, str]  # names of the native functions among its variables
    where: str  # "train.py:42 in step": the innermost line that is not torch's

    @classmethod
    def of(cls, frame: FrameType) -> Position:
        natives = {
            key: value.__name__ for key, value in frame.f_locals.items() if isinstance(value, BuiltinFunctionType)
        }
        return cls(frame.f_code, frame.f_lasti, natives, line_of(caller(frame)))

    @property
    def operation(self) -> str:
        """`aten::add_`, `numpy.add`, `+=`."""
        return _name_of(_source(self.code, self.instruction), self.natives) or f"a write in {self.code.co_name}"


def _source(code: CodeType, instruction: int) -> str:
    """The source of one instruction; empty where it is not to be had."""
    places = next(islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    first, last, start, stop = places
    if first is None or last is None or start is None or stop is None:
        return ""
    lines = [linecache.getline(code.co_filename, number).encode() for number in range(first, last + 1)]
    if not all(lines):
        return ""
    lines[-1] = lines[-1][:stop]
    lines[0] = lines[0][start:]
    return b"".join(lines).decode(errors="replace")


def _name_of(source: str, natives: Mapping[str, str]) -> str | None:
    try:
        expression = ast.parse(f"({source}\n)", mode="eval").body
    except (SyntaxError, ValueError):
        return _assignment(source)
    if isinstance(expression, ast.Subscript):
        return "[...] ="
    return _call(expression.func, natives) if isinstance(expression, ast.Call) else None


def _assignment(source: str) -> str | None:
    """The sign of `w += 1`, whose instruction is the whole line's."""
    try:
        (statement,) = ast.parse(source.strip()).body
    except (SyntaxError, ValueError):
        return None
    return f"{_SIGNS.get(type(statement.op), '')}=" if isinstance(statement, ast.AugAssign) else None


def _call(function: ast.expr, natives: Mapping[str, str]) -> str:
    """torch's name of an operation that ends as its in-place ones do; any other call as it is written."""
    written = ast.unparse(function)
    text = natives.get(written, written)
    last = text.rpartition(".")[2]
    if last.endswith("_") and not last.endswith("__") and hasattr(torch.ops.aten, last):
        return f"aten::{last}"
    return text if len(text) <= 80 else f"...{text[-77:]}"


_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.MatMult: "@", ast.Pow: "**", ast.Mod: "%",
    ast.FloorDiv: "//", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip


def innermost(thread: int, otherwise: int) -> FrameType | None:
    """The frame that runs in the thread with this native number; in the other one, where it runs no Python.

    A thread of a pool works for the thread that waits for it.
    """
    frames = sys._current_frames()
    by_number = {each.native_id: each.ident for each in threading.enumerate()}
    frame = frames.get(by_number.get(thread) or 0) or frames.get(otherwise)
    return frame and _interrupted(frame)


def _interrupted(frame: FrameType) -> FrameType:
    """The frame itself, or the one that the handler interrupted in its thread to ask for its own position."""
    found, outer = frame, frame
    while outer.f_back is not None:
        if outer.f_code.co_filename.startswith(_OURS):
            found = outer.f_back
        outer = outer.f_back
    return found
