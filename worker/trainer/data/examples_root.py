"""The root over the examples that a run trained on, and the steps at which it did: for the recipe."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.evidence.format.examples import ExampleTree, key_of, key_of_text
from worker.trainer.data.sampler import Sampler
from worker.trainer.data.table import Table

Row = Mapping[str, Any]

#: Rows of a table whose numbers are written at once.
_BLOCK: Final = 4096
#: Python writes fewer numbers than these in less time than importing pyarrow takes.
_FEW: Final = 200_000
#: Within these, pyarrow and Python write a number that is not whole with the same characters.
_LEAST, _MOST = 1e-4, 1e9
#: Whole numbers below are written as integers with a `.0`; Python writes larger ones with an exponent.
_WHOLE: Final = 1e15


def example_tree(rows: Sequence[Row], sampler: Sampler, *, steps: int, labels: Sequence[str] | None) -> ExampleTree:
    """The tree over the training rows after `steps` steps. `labels` are the file's own, by the rows' indices."""
    taken: list[list[int]] = [[] for _ in rows]
    for step in range(1, steps + 1):
        for position in sampler.positions(step).tolist():
            taken[position].append(step)

    by_key: dict[bytes, list[int]] = {}
    with _without_collection():
        for key, own in zip(_keys(rows, labels), taken, strict=True):
            by_key.setdefault(key, []).extend(own)
        return ExampleTree.of(by_key)


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
