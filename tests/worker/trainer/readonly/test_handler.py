"""Faults in read-only spans are noticed and survived, others end the process as before, and nothing hangs."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worker.trainer.readonly import handler as module
from worker.trainer.readonly.handler import CannotProtect, FaultHandler, handler
from worker.trainer.readonly.spans import PageSpan, private_file_mappings, spans
from worker.trainer.witness.guard import memory

HERE = "tests/worker/trainer/readonly/test_handler.py"


@pytest.fixture
def weight(tmp_path: Path) -> torch.Tensor:
    save_file({"weight": torch.zeros(512, 1024)}, tmp_path / "model.safetensors")
    return load_file(tmp_path / "model.safetensors")["weight"]


@pytest.fixture
def protected(weight: torch.Tensor) -> Iterator[FaultHandler]:
    """The weight in two halves."""
    (whole,) = spans([("weight", memory(weight))], [], private_file_mappings())
    middle = whole.start + (whole.stop - whole.start) // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    source = handler()
    source.begin([PageSpan(whole.start, middle, whole.names), PageSpan(middle, whole.stop, whole.names)])
    yield source
    if source.busy:
        source.end()


def operations(source: FaultHandler) -> list[tuple[int, str | None]]:
    return [(index, position.operation if position else None) for index, _, position in source.written()]


def test_a_write_is_noticed_once_and_made(weight: torch.Tensor, protected: FaultHandler) -> None:
    """Each span by itself, with its first address; reading is nothing."""
    assert float(weight.sum()) == 0.0
    assert protected.noticed == 0
    weight[0].add_(1)
    weight[1].add_(1)
    ((index, address, position),) = protected.written()
    assert (index, address) == (0, weight.data_ptr())
    assert position is not None and position.where.startswith(HERE)
    weight[511].mul_(2)
    assert operations(protected) == [(0, "aten::add_"), (1, "aten::mul_")]
    assert protected.noticed == 2
    assert float(weight.sum()) == 2048.0


def test_a_thread_that_holds_the_lock_names_itself(weight: torch.Tensor, protected: FaultHandler) -> None:
    """A library that keeps Python's lock while it writes."""
    ctypes.PyDLL(None).memset(ctypes.c_void_p(weight.data_ptr()), 1, 8)
    assert operations(protected) == [(0, "ctypes.PyDLL(None).memset")]
    ctypes.memset(weight[511].data_ptr(), 1, 8)  # and one that gives it away
    assert operations(protected)[1] == (1, "ctypes.memset")


def test_a_pool_that_works_under_the_lock_does_not_hang(
    weight: torch.Tensor, protected: FaultHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage's `fill_` waits for its pool with Python's lock in hand: the pool's part may go on without a name."""
    monkeypatch.setattr(protected._table, "patience", 20)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        weight.untyped_storage().fill_(1)  # type: ignore[attr-defined]
        first, second = operations(protected)
        assert first == (0, "aten::fill_")
        assert second in [(1, None), (1, "aten::fill_")]  # the lock may be free for a moment
    finally:
        torch.set_num_threads(before)
    assert weight.view(torch.uint8).eq(1).all()


def test_several_threads_at_once(weight: torch.Tensor, protected: FaultHandler) -> None:
    """Each write is made, whoever was first."""
    threads = [threading.Thread(target=weight[row].add_, args=(1,)) for row in range(0, 512, 32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert protected.noticed == 2
    assert float(weight.sum()) == 16 * 1024


def test_the_end_puts_everything_back(weight: torch.Tensor, protected: FaultHandler) -> None:
    """Pages are writable, and the handler is the earlier one; one that came later stays."""
    protected.end()
    weight.add_(1)
    assert protected.noticed == 0

    (whole,) = spans([("weight", memory(weight))], [], private_file_mappings())
    assert faulthandler.is_enabled()  # pytest's
    faulthandler.disable()
    protected.begin([whole])
    faulthandler.enable(2)
    protected.end()
    now = module._Action()
    protected._sigaction(None, ctypes.byref(now))
    assert now.handler not in (None, 0, protected._code)


def test_where_it_is_not_allowed(weight: torch.Tensor) -> None:
    """The reason is given, and what was protected until then is writable."""
    page = mmap.mmap(-1, mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    (whole,) = spans([("weight", memory(weight))], [], private_file_mappings())
    source = handler()
    gone = PageSpan(2**46, 2**46 + mmap.PAGESIZE, ())
    assert start != gone.start
    with pytest.raises(CannotProtect, match="read-only: Cannot allocate memory"):
        source.begin([whole, gone])
    weight.add_(1)
    assert not source.busy


@pytest.mark.parametrize(("machine", "system"), [("riscv64", "linux"), ("arm64", "darwin")])
def test_other_machines(monkeypatch: pytest.MonkeyPatch, machine: str, system: str) -> None:
    """There is no handler for them, and the message says so."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(CannotProtect, match=f"no handler for {system} on {machine}"):
        handler.__wrapped__()


#: Forked from one interpreter, which takes seconds to start.
CRASHES = {
    "read": "ctypes.string_at(8)",
    "write": "ctypes.memset(8, 1, 1)",
    "sent": "os.kill(os.getpid(), 11)",
    "raised": "signal.raise_signal(11)",
    "another handler": "ctypes.string_at(8)",
    "unmapped": "ctypes.CDLL(None).munmap(page(array), size(8192)); array[0] = 2",
    "forbidden": "source._table.mprotect = source._table.gettid; forbid(array); array[0] = 2",
}
PROGRAM = """
import ctypes, faulthandler, os, signal, sys
from tests.worker.trainer.readonly.test_handler import *
for name, crash in CRASHES.items():
    child = os.fork()
    if child == 0:
        if name == "another handler":
            faulthandler.enable()
        source, array = protected_array(sys.argv[1])
        array[0] = 1
        assert source.noticed == 1
        exec(crash)
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
size = ctypes.c_size_t


def protected_array(folder: str) -> tuple[FaultHandler, torch.Tensor]:
    path = Path(folder) / "model.safetensors"
    save_file({"weight": torch.zeros(512, 1024)}, path)
    weight = load_file(path)["weight"]
    handler().begin(spans([("weight", memory(weight))], [], private_file_mappings()))
    return handler(), weight


def page(array: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE)


def forbid(array: torch.Tensor) -> None:
    ctypes.CDLL(None).mprotect(page(array), size(mmap.PAGESIZE), 1)


def test_faults_elsewhere_end_the_process(tmp_path: Path) -> None:
    """By the same signal as ever, also after a write that was survived, and where pages are gone or stay forbidden."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == [f"{name} {-signal.SIGSEGV}" for name in CRASHES], ended.stderr
    assert ended.stderr.count("Fatal Python error: Segmentation fault") == 1  # of the other handler
