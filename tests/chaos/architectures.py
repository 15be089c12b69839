"""`gated`: affine with dropout, which waits where a test wants it to and tells when it runs twice.

A trainer finds it as it finds any architecture of a user's own: by the entry-point group `permafrost.architectures`.
"""

import fcntl
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.protocol import WorkOrder

#: Between two looks at a gate.
LOOK_SECONDS: Final = 0.003
#: One lock for each process, whatever it builds: a replay makes the model again.
_held: list[int] = []


class Gated(nn.Module):
    """`gates` is a folder shared with the test; `pace` makes every step last that many seconds, with the same bits."""

    def __init__(self, in_features: int, out_features: int, gates: str, pace: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, out_features) / in_features**0.5)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self._gates, self._pace, self._step = Path(gates), pace, 0
        if _stage() == "train":
            _be_the_only_one(self._gates)
            self._pass("loading")

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self._step += 1
            time.sleep(self._pace)
            self._pass(f"step-{self._step}")
        return F.dropout(x, 0.1, self.training) @ self.weight + self.bias

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        # Everything that saves or exports asks for the parameters first.
        if (self._gates / "exporting").exists() and b'"exporting"' in Path("reports.jsonl").read_bytes():
            self._pass("exporting")
        return super().named_parameters(*args, **kwargs)

    def _pass(self, point: str) -> None:
        """`point` is a gate for every attempt, `a2-point` one for the second alone."""
        for gate in (self._gates / point, self._gates / f"{Path.cwd().name}-{point}"):
            if gate.exists():
                gate.with_name(f"{gate.name}.reached").write_text(str(os.getpid()))
                WHAT[gate.read_text()](gate)


def _wait(gate: Path) -> None:
    """The test can see when somebody asks this process to stop; whoever handles that is asked all the same."""
    usual = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        gate.with_name(f"{gate.name}.told").touch()
        if callable(usual):
            usual(number, frame)

    signal.signal(signal.SIGTERM, note)
    while gate.exists():
        time.sleep(LOOK_SECONDS)
    signal.signal(signal.SIGTERM, usual)


def _hang(gate: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while gate.exists():
        time.sleep(LOOK_SECONDS)


def _die(gate: Path) -> None:
    print("the last words of a poisoned job", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _eat(gate: Path) -> None:
    """Until the kernel says stop: the test has put this process where it soon will."""
    _wait(gate)
    eaten = [bytearray(os.urandom(1 << 20)) for _ in range(1024)]
    raise MemoryError(f"{len(eaten)} MiB could be had")


def _run_out(gate: Path) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB; 1.10 GiB is free")


def _lose_device(gate: Path) -> None:
    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")


WHAT: Final = {"wait": _wait, "hang": _hang, "die": _die, "eat": _eat, "run out": _run_out, "lose": _lose_device}


def _stage() -> str:
    """What this process is for; nothing where no trainer builds the model."""
    return WorkOrder.load(Path.cwd()).stage if Path("job.json").exists() else ""


def _be_the_only_one(gates: Path) -> None:
    """The kernel gives the lock back when its holder is dead, however it died."""
    if _held:
        return
    _held.append(os.open(gates / f"{Path.cwd().parent.name}.alive", os.O_RDWR | os.O_CREAT))
    try:
        fcntl.flock(_held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (gates / f"{Path.cwd().parent.name}.doubled").write_text(f"{Path.cwd().name}, pid {os.getpid()}")
    with (gates / f"{Path.cwd().parent.name}.attempts").open("a") as attempts:
        attempts.write(f"{Path.cwd().name}\n")
