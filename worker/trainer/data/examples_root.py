"""The root over the examples that a run trained on, and the steps at which it did: for the recipe."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.evidence.format.examples import ExampleTree, key_of, key_of_text
from worker.trainer.data.flat import Flat
from worker.trainer.data.sampler import Sampler
from worker.trainer.data.table import Table

Row = Mapping[str, Any]

KEY_BYTES: Final = 32
#: Rows that are handled together: those of a table are written at once.
_BLOCK: Final = 4096
#: Python writes fewer numbers than these in less time than importing pyarrow takes.
_FEW: Final = 200_000
#: Within these, pyarrow and Python write a number that is not whole with the same characters.
_LEAST, _MOST = 1e-4, 1e9
#: Whole numbers below are written as integers with a `.0`; Python writes larger ones with an exponent.
_WHOLE: Final = 1e15


class TrainedExamples:
    """The distinct training examples after `steps` steps, in the order of their keys. `labels` are the file's own.

    What does not fit in memory is in files of `folder`: OSError where the disk is full.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        sampler: Sampler,
        *,
        steps: int,
        labels: Sequence[str] | None,
        folder: Path | None = None,
    ) -> None:
        keys = Flat(np.uint8, folder)
        for key in _keys(rows, labels):
            keys.add(key)
        self._keys = keys.finished().reshape(-1, KEY_BYTES)
        self._order = _order(self._keys)
        self._taken = _taken(sampler, steps, folder)

    def keys(self) -> Iterator[bytes]:
        """Each once."""
        last = None
        for block in self._blocks():
            for key in _each(self._keys[block]):
                if key != last:
                    yield key
                last = key

    def steps_by_key(self) -> Iterator[tuple[bytes, list[int]]]:
        """Each key with the steps, in their order, at which an example of it was trained on."""
        last, together = b"", list[int]()
        for block in self._blocks():
            for key, taken in zip(_each(self._keys[block]), self._taken[:, block].T.tolist(), strict=True):
                if key != last and last:
                    yield last, sorted(together)
                    together = []
                last = key
                together += [step for step in taken if step]
        if last:
            yield last, sorted(together)

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(self._order), _BLOCK):
            yield self._order[start : start + _BLOCK]


def example_tree(rows: Sequence[Row], sampler: Sampler, *, steps: int, labels: Sequence[str] | None) -> ExampleTree:
    """The whole tree over the training rows after `steps` steps. `labels` are the file's own, by the rows' indices."""
    with _without_collection():
        return ExampleTree.of(dict(TrainedExamples(rows, sampler, steps=steps, labels=labels).steps_by_key()))


def _order(keys: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The rows of the keys (rows, 32) in the order of these. Few keys, if any, begin as another one does."""
    begin, *rest = keys.view(">u8").T
    order = np.argsort(begin, kind="stable")
    sorted_begin = begin[order]
    if (sorted_begin[1:] == sorted_begin[:-1]).any():
        order = np.lexsort((*reversed(rest), begin))
    return order


def _taken(sampler: Sampler, steps: int, folder: Path | None) -> NDArray[np.int64]:
    """(epochs, rows): the step at which each epoch had the row; 0 where it ended before."""
    taken = Flat(np.int64, folder)
    for first in range(1, steps + 1, sampler.steps_per_epoch):
        epoch = np.zeros(sampler.examples, dtype=np.int64)
        for step in range(first, min(first + sampler.steps_per_epoch, steps + 1)):
            epoch[sampler.positions(step)] = step
        taken.add(epoch.tobytes())
    return taken.finished().reshape(-1, sampler.examples)


def _each(keys: NDArray[np.uint8]) -> Iterator[bytes]:
    joined = keys.tobytes()
    return (joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES))


@contextmanager
def _without_collection() -> Iterator[None]:
    """Lets no garbage be looked for: millions of small objects are made here, and every look passes all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _keys(rows: Sequence[Row], labels: Sequence[str] | None) -> Iterator[bytes]:
    """The key of each row. Numbers of a large table are written in blocks: Python takes half a microsecond for each."""
    if not isinstance(rows, Table) or rows.x.size + rows.y.size < _FEW or find_spec("pyarrow") is None:
        yield from (key_of(as_written(row, labels)) for row in rows)
        return
    for start in range(0, len(rows), _BLOCK):
        yield from map(key_of_text, _texts(rows[start : start + _BLOCK], labels))


def _texts(table: Table, labels: Sequence[str] | None) -> Iterator[bytes]:
    """Rows in canonical form: `{"x":[0.5,1.0],"y":[2.0]}`, or the label's name as `y`."""
    if table.y.ndim > 1:
        targets = [f"[{each}]" for each in number_lists(table.y)]
    else:
        names = [json.dumps(label, ensure_ascii=False) for label in labels or ()]
        targets = [names[index] for index in table.y.tolist()]
    for x, y in zip(number_lists(table.x), targets, strict=True):
        yield f'{{"x":[{x}],"y":{y}}}'.encode("utf-8", "surrogatepass")


def number_lists(values: NDArray[np.float64]) -> list[str]:
    """The numbers of each row as Python writes them, with commas between them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, width = values.shape
    flat = np.ascontiguousarray(values).reshape(-1)
    size = np.abs(flat)
    whole = (flat == np.rint(flat)) & (size < _WHOLE) & ~((flat == 0) & np.signbit(flat))
    texts = pc.cast(pa.array(flat), pa.string())
    if whole.any():
        integers = pc.cast(pa.array(np.where(whole, flat, 0).astype(np.int64)), pa.string())
        texts = pc.if_else(pa.array(whole), pc.binary_join_element_wise(integers, "0", "."), texts)
    others = ~whole & ~((size >= _LEAST) & (size < _MOST))
    if others.any():
        texts = pc.replace_with_mask(texts, pa.array(others), pa.array([repr(each) for each in flat[others].tolist()]))
    ends = pa.array(np.arange(0, rows * width + 1, width, dtype=np.int32))
    joined: list[str] = pc.binary_join(pa.ListArray.from_arrays(ends, texts), ",").to_pylist()
    return joined


def as_written(row: Row, labels: Sequence[str] | None) -> Row:
    """The row with the labels that the file has, in place of their indices."""
    if labels is None:
        return row
    name = next(name for name in ("label", "labels", "y") if name in row)
    value = row[name]
    return {**row, name: [labels[each] for each in value] if isinstance(value, list) else labels[value]}
