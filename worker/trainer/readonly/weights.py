"""A job's frozen weights, read-only while it trains: a write to one is noticed with its operation and line.

What is protected are pages that are mapped from files, as safetensors maps a base, of parameters that are frozen for
the whole run and that the optimizer does not hold. Every verdict remains the witness's, which compares bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from app.errors import PermafrostError
from app.freeze.plan import FreezePlan
from worker.protocol import Reporter
from worker.trainer.freeze.tensor_refs import tensor_refs
from worker.trainer.readonly.handler import CannotProtect, FaultHandler, handler
from worker.trainer.readonly.spans import PageSpan, Range, private_file_mappings, spans
from worker.trainer.training.state import TrainingState
from worker.trainer.witness.guard import Write, memory
from worker.trainer.witness.witness import Witness


class FrozenWeightRefused(PermafrostError):
    """A system call was to write where it may not, such as into a read-only frozen weight."""

    code = "frozen_tensor_changed"


class PageWrites:
    """The first writes to read-only weights, as a witness takes them: each once."""

    def __init__(self, source: FaultHandler, protected: list[PageSpan]) -> None:
        self._source = source
        self._protected = protected
        self._count = 0
        self._seen: set[int] = set()

    @property
    def pending(self) -> bool:
        return self._source.noticed != self._count

    def take(self) -> dict[str, Write | None]:
        """Tensors that may have been written to since the last call, with the operation where that is known.

        A write names the tensor at its address. It also names those beside it in the same pages which no other write
        names: until then nothing had been written there.
        """
        self._count = self._source.noticed
        at_address: dict[str, Write | None] = {}
        beside: dict[str, Write | None] = {}
        for index, address, position in self._source.written():
            if index in self._seen:
                continue
            self._seen.add(index)
            for name, (start, stop) in self._protected[index].names:
                write = Write(name, position.operation, position.where) if position is not None else None
                (at_address if start <= address < stop else beside).setdefault(name, write)
        return beside | at_address


@contextmanager
def read_only(state: TrainingState, plan: FreezePlan, witness: Witness, reporter: Reporter) -> Iterator[None]:
    """Within the context a write to a protected weight is noticed, made, and left to the witness to judge.

    Where nothing can be protected, nothing is.
    FrozenWeightRefused if a system call was to write there, since the system refuses that without a signal.
    """
    protected = protectable(state.model, plan, state.parameters)
    source = _begun(protected, reporter)
    if source is None:
        yield
        return

    held = [parameter.data for parameter in state.model.parameters()]  # nothing else comes to these addresses
    total = sum(decision.nbytes for decision in plan.frozen)
    nbytes = sum(span.frozen_bytes for span in protected)
    reporter.event(f"{nbytes:,} of {total:,} frozen bytes are read-only while it trains", bytes=nbytes)
    witness.listen(PageWrites(source, protected))
    try:
        yield
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        message = (
            "a system call was to write to memory that is read-only, as frozen weights are while a job trains: read "
            f"into a tensor of your own, and copy from there ({error})"
        )
        raise FrozenWeightRefused(message, param="freeze_policy") from error
    finally:
        source.end()
        held.clear()


def protectable(model: nn.Module, plan: FreezePlan, trained: Iterable[Tensor]) -> list[PageSpan]:
    """Pages of parameters that are frozen for the whole run and mapped from files; the optimizer holds `trained`."""
    optimized = {id(tensor) for tensor in trained}
    names = {name: each.name for each in plan.frozen for name in (each.name, *each.aliases) if each.kind == "parameter"}
    frozen: dict[str, Range] = {}
    others: list[Range] = []
    for ref in tensor_refs(model):
        tensor, name = ref.tensor, names.get(ref.name)
        if tensor is None:
            continue
        if name is None or id(tensor) in optimized:
            others.append(memory(tensor))
        elif tensor.device.type == "cpu":
            frozen.setdefault(name, memory(tensor))
    return spans(frozen.items(), others, private_file_mappings())


def _begun(protected: list[PageSpan], reporter: Reporter) -> FaultHandler | None:
    if not protected:
        return None
    try:
        source = handler()
        if source.busy:
            return None  # another run of this process has it
        source.begin(protected)
    except CannotProtect as reason:
        reporter.event(f"frozen weights can be written to while it trains: {reason}")
        return None
    return source
