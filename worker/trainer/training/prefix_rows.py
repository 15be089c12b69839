"""Computes a prefix's results row by row: what earlier jobs left is taken, and the rest is computed in equal shapes.

A row passes through the model beside others of its own length, without padding, always as many at a time. So its
results depend on the row alone, and are the same in every job, whatever else that job's data holds. That the kernels
of this machine keep to it is tried out (`_keeps_to_itself`), and what was taken is tried again in part.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.sampler import sequential
from worker.trainer.prefix.kept_results import KeptResults
from worker.trainer.prefix.row_inputs import RowInputs, at_a_time, rows_of, together
from worker.trainer.prefix.row_store import RowStore
from worker.trainer.training.prefix_request import Filling, PrefixRequest

OTHER_BITS = (
    "results of earlier jobs are not used: some are not what this machine computes, so all are computed here again"
)


class OtherBitsError(Exception):
    """Rows that were kept are not, to the bit, what this process computes."""


def fill_by_rows(filling: Filling, key: str) -> tuple[int, float | None]:
    """How many examples earlier jobs or attempts had left, and the seconds of an example through the prefix.

    None where nothing had to be computed. `key` names the prefix and all that it is computed by.
    """
    request = filling.request
    store = _open(filling, key)
    fillers = [RowFiller(filling=filling, name=name, store=store) for name in request.parts]
    try:
        reused = 0
        for filler in fillers:
            reused += _filled(filler)
            for other in fillers:
                other.store, other.tried = filler.store, filler.tried
    finally:
        if store is not None:
            store.close()

    computed, seconds = sum(filler.computed for filler in fillers), sum(filler.seconds for filler in fillers)
    rows_per_example = filling.results["training"].count / len(request.parts["training"])
    return reused, seconds / computed * rows_per_example if computed else None


def _open(filling: Filling, key: str) -> RowStore | None:
    request, said = filling.request, set()
    if request.shared is None or request.room <= 0:
        return None

    def say_once(problem: str) -> None:
        if problem not in said:
            said.add(problem)
            filling.reporter.event(problem, level="warn")

    return RowStore(request.shared, key=key, room=request.room, on_problem=say_once)


def _filled(filler: RowFiller) -> int:
    try:
        return filler.fill()
    except OtherBitsError:
        filler.filling.reporter.event(OTHER_BITS, level="warn")
        filler.store = None
        filler.taken.clear()
        return filler.fill()


@dataclass(slots=True, kw_only=True)
class RowFiller:
    """Fills the results of one part of the data. `store` has the rows of earlier jobs, and gets this job's."""

    filling: Filling
    name: str
    store: RowStore | None = None
    seconds: float = 0.0  # in the model
    computed: int = 0  # rows, with those that fill a batch up
    tried: bool = False  # whether rows keep to themselves
    taken: list[int] = field(default_factory=list)  # rows of earlier jobs
    _waiting: dict[int, list[tuple[RowInputs, bytes]]] = field(default_factory=dict)  # by length
    _batches: int = 0
    _like: Batch | None = None

    @property
    def request(self) -> PrefixRequest:
        return self.filling.request

    @property
    def results(self) -> KeptResults:
        return self.filling.results[self.name]

    def fill(self) -> int:
        """Fill every row; returns how many examples earlier jobs or attempts had left. OtherBitsError."""
        reported, done = time.monotonic(), 0
        examples = self.request.parts[self.name]
        for positions in sequential(len(examples), self.request.size):
            self.filling.stop.raise_if_requested()
            self._like = batch = examples.batch(positions)
            assert batch.rows is not None
            for row in rows_of(batch, self.results.lengths, range(len(batch.rows))):
                self._take_or_wait(row)

            done += len(positions)
            reported = self.filling.report(self.name, done, reported)
        for length in sorted(self._waiting):
            self._compute(length)
        self._refuse_other_bits()
        return len(self.taken) * len(examples) // self.results.count

    def _take_or_wait(self, row: RowInputs) -> None:
        address = row.address
        payload = self.store.get(address, self.results.row_size(row.row)) if self.store is not None else None
        if payload is not None:
            self.results.put_bytes(row.row, payload)
            self.taken.append(row.row)
            return
        waiting = self._waiting.setdefault(row.length, [])
        waiting.append((row, address))
        if len(waiting) == self._at_a_time(row.length):
            self._compute(row.length)

    def _compute(self, length: int) -> None:
        """Compute the rows of this length that wait, and hand them on to later jobs."""
        waiting = self._waiting.pop(length, [])
        if not waiting:
            return
        self.filling.stop.raise_if_requested()
        self._batches += 1
        number = str(self._batches)
        inputs = hashlib.sha256(b"".join(address for _, address in waiting)).hexdigest()
        numbers = np.array([row.row for row, _ in waiting], dtype=np.int64)
        if self.results.holds(number, inputs, numbers):  # in the file of an earlier attempt
            self.taken += numbers.tolist()
            return

        rows = [row for row, _ in waiting]
        values = self._values(rows)
        self.results.put(numbers, values)
        self.results.note(number, inputs, numbers)
        if self.store is not None and self._keeps_to_itself(rows, values):
            self.store.put([(address, self.results.row_bytes(row.row)) for row, address in waiting])

    def _values(self, rows: Sequence[RowInputs]) -> list[Tensor]:
        """The prefix's results for these rows, in a batch that is filled up with the first one."""
        size = self._at_a_time(rows[0].length)
        assert self._like is not None
        began = time.perf_counter()
        full = [*rows, *[rows[0]] * (size - len(rows))]
        batch = together(full, self._like).to(self.request.device)
        values = self.filling.prefix.capture(lambda: self.request.compute(batch))
        values = [value[: len(rows)].cpu() for value in values]
        self.seconds += time.perf_counter() - began
        self.computed += size
        return values

    def _at_a_time(self, length: int) -> int:
        return at_a_time(length, most=self.request.size, device=self.request.device)

    def _keeps_to_itself(self, rows: Sequence[RowInputs], values: Sequence[Tensor]) -> bool:
        """Tried once: the first row must give the same in the last place, beside rows of other values."""
        size = self._at_a_time(rows[0].length)
        if self.tried or size == 1:
            return True
        self.tried = True
        again = self._values([*[_reversed(rows[0])] * (size - 1), rows[0]])
        if all(_same_bits(one[0], other[-1]) for one, other in zip(values, again, strict=True)):
            return True
        message = "results are not kept for other jobs: on this machine they depend on the other rows of a batch"
        self.filling.reporter.event(message)
        self.store = None
        return False

    def _refuse_other_bits(self) -> None:
        """OtherBitsError unless some of the rows that were taken, of one length, are computed to the same bits."""
        if not self.taken or self.store is None:
            return
        chosen = self.taken[secrets.randbelow(len(self.taken))]
        lengths = self.results.lengths
        alike = [row for row in self.taken if lengths is None or lengths[row] == lengths[chosen]]
        alike = alike[: self._at_a_time(0 if lengths is None else int(lengths[chosen]))]
        numbers = list(dict.fromkeys([chosen, *alike]))[: len(alike)]
        rows = _inputs(self.request.parts[self.name], numbers, self.results)
        values = self._values(rows)
        for index, row in enumerate(rows):
            computed = b"".join(value[index].reshape(-1).view(torch.uint8).numpy().tobytes() for value in values)
            if computed != self.results.row_bytes(row.row):
                raise OtherBitsError


def _inputs(examples: Examples, numbers: Sequence[int], results: KeptResults) -> list[RowInputs]:
    """The inputs of single rows. An example has one row, or the second one as far behind as there are examples."""
    positions = np.array(sorted({number % len(examples) for number in numbers}), dtype=np.int64)
    batch = examples.batch(positions)
    assert batch.rows is not None
    of = {row.row: row for row in rows_of(batch, results.lengths, range(len(batch.rows)))}
    return [of[number] for number in numbers]


def _reversed(row: RowInputs) -> RowInputs:
    """Other values that the model accepts as well."""
    return replace(row, inputs={name: t.flip(0) if t.ndim else t for name, t in row.inputs.items()})


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(*(tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)))
