"""The process's handler of SIGSEGV: makes spans of pages read-only, and notices the first write to each.

The handler is machine code, made of tools/fault_handler/handler.c. It takes no lock, and waits a bounded time for what
Python has to say. The pages that were written to become writable again, and the write is made.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from worker.trainer.readonly.machine_code import MACHINE_CODE, PLACE
from worker.trainer.readonly.position import Position, innermost
from worker.trainer.readonly.spans import PageSpan

_PATIENCE = 5000  # rounds of 0.2 ms
_READ, _WRITE, _EXECUTE = 1, 2, 4  # sys/mman.h
_SA_SIGINFO, _SA_RESTART = 4, 0x10000000  # signal.h


class _Span(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64),
        ("stop", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("claimed", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("waiting", ctypes.c_uint32),
        ("named", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class _Table(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_uint64),
        ("spans", ctypes.c_void_p),
        ("noticed", ctypes.c_uint32),
        ("deaf", ctypes.c_uint32),
        ("bell", ctypes.c_int),
        ("patience", ctypes.c_uint32),
        ("holds_lock", ctypes.c_void_p),
        ("name_now", ctypes.c_void_p),
        ("write", ctypes.c_void_p),
        ("nanosleep", ctypes.c_void_p),
        ("mprotect", ctypes.c_void_p),
        ("gettid", ctypes.c_void_p),
        ("sigaction", ctypes.c_void_p),
        ("raise_", ctypes.c_void_p),
        ("errno_place", ctypes.c_void_p),
        ("before", ctypes.c_char * 256),
    )


class _Action(ctypes.Structure):
    """glibc's struct sigaction."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_char * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class CannotProtect(Exception):
    """Pages cannot be made read-only here, for the reason that the message gives."""


class FaultHandler:
    """The one handler of this process. It stays where it is for good, since others may have it as their predecessor."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._table = _Table(patience=_PATIENCE)
        self._name_now = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(self._name_interrupted)
        for name in ("write", "nanosleep", "mprotect", "gettid", "sigaction"):
            setattr(self._table, name, _address(getattr(self._libc, name)))
        self._table.raise_ = _address(getattr(self._libc, "raise"))
        self._table.errno_place = _address(getattr(self._libc, "__errno_location"))
        self._table.holds_lock = _address(ctypes.pythonapi.PyGILState_Check)
        self._table.name_now = _address(self._name_now)
        self._code = _executable(self._libc, _code_for(ctypes.addressof(self._table)))
        self._spans: ctypes.Array[_Span] = (_Span * 0)()
        self._positions: list[Position | None] = []
        self._thread: threading.Thread | None = None
        self._owner = 0

    @property
    def busy(self) -> bool:
        return bool(self._table.count)

    @property
    def noticed(self) -> int:
        """How many spans were written to. Reading it costs what reading an attribute costs."""
        return int(self._table.noticed)

    def begin(self, spans: Sequence[PageSpan]) -> None:
        """Makes these spans read-only until `end`. CannotProtect if the system does not let it, and nothing is."""
        assert not self.busy
        self._listen()
        self._owner = threading.get_ident()
        self._spans = (_Span * len(spans))(*(_Span(start=span.start, stop=span.stop) for span in spans))
        self._positions = [None] * len(spans)
        self._table.noticed = self._table.deaf = 0
        self._table.spans = ctypes.addressof(self._spans)
        self._table.count = len(spans)
        try:
            action = _Action(handler=self._code, flags=_SA_SIGINFO | _SA_RESTART)
            self._sigaction(ctypes.byref(action), self._before)
            self._allow(_READ)
        except CannotProtect:
            self.end()
            raise

    def end(self) -> None:
        """Makes everything writable again, and puts the earlier handler back unless another one came since."""
        with suppress(CannotProtect):
            self._allow(_READ | _WRITE)
        self._table.count = 0
        now = _Action()
        self._sigaction(None, ctypes.byref(now))
        if now.handler == self._code:
            self._sigaction(self._before, None)
        self._stop_listening()

    def written(self) -> list[tuple[int, int, Position | None]]:
        """Of each span that was written to: its place in the list, the first address, and where that was."""
        return [(index, span.address, self._positions[index]) for index, span in enumerate(self._spans) if span.claimed]

    def _listen(self) -> None:
        try:
            self._table.bell = os.eventfd(0, os.EFD_CLOEXEC)
            self._thread = threading.Thread(target=self._answer, args=(self._table.bell,), daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:  # no descriptor, no thread
            raise CannotProtect(str(error)) from error

    def _stop_listening(self) -> None:
        bell, thread = self._table.bell, self._thread
        self._thread, self._table.bell = None, -1
        os.eventfd_write(bell, 1)
        assert thread is not None
        thread.join()
        os.close(bell)

    def _name_interrupted(self, index: int) -> None:
        """Called in the thread that wrote, which holds Python's lock."""
        self._positions[index] = Position.of(sys._getframe(1))

    def _answer(self, bell: int) -> None:
        """In a thread of its own: says where the threads are that wrote without holding Python's lock."""
        while True:
            os.eventfd_read(bell)
            if self._thread is None:
                return
            for index, span in enumerate(self._spans):
                if span.waiting and not span.named:
                    self._name(index, span)

    def _name(self, index: int, span: _Span) -> None:
        frame = innermost(span.thread, self._owner)
        position = Position.of(frame) if frame is not None else None
        if span.waiting:  # still, so that it was there all the time
            self._positions[index] = position
        span.named = 1

    def _allow(self, rights: int) -> None:
        """Gives all spans these rights, as far as it goes."""
        problem = 0
        for span in self._spans:
            length = ctypes.c_size_t(span.stop - span.start)
            if self._libc.mprotect(ctypes.c_void_p(span.start), length, rights) != 0:
                problem = ctypes.get_errno()
        if problem:
            raise CannotProtect(f"pages cannot be made read-only: {os.strerror(problem)}")

    @property
    def _before(self) -> object:
        return ctypes.byref(self._table, _Table.before.offset)

    def _sigaction(self, new: object, old: object) -> None:
        if self._libc.sigaction(signal.SIGSEGV, new, old) != 0:
            raise CannotProtect(os.strerror(ctypes.get_errno()))


@cache
def handler() -> FaultHandler:
    """CannotProtect where there is no handler for this machine or system."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINE_CODE:
        raise CannotProtect(f"there is no handler for {sys.platform} on {platform.machine()}")
    if ctypes.CDLL(None).PyGILState_Check() != 0:  # called without the lock
        raise CannotProtect("this Python does not say which thread holds its lock")
    return FaultHandler()


def _code_for(table: int) -> bytes:
    return MACHINE_CODE[platform.machine()].replace(PLACE.to_bytes(8, "little"), table.to_bytes(8, "little"))


def _executable(libc: ctypes.CDLL, code: bytes) -> int:
    """The address of a page of its own with this code, which is there until the process ends."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise CannotProtect(str(error)) from error
    page.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    _KEPT.append(page)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), _READ | _EXECUTE) != 0:
        raise CannotProtect(f"no page may be executed: {os.strerror(ctypes.get_errno())}")
    return start


_KEPT: list[mmap.mmap] = []


def _address(function: Callable[..., object]) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
