"""The tensors of a model as a worker wrote them down: for every task, or, of a torch model and a result, once.

A row is a TensorInfo as JSON, with `initialised` where the model's files do not hold the tensor, and `labels` where its
dimension 0 counts the classes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.freeze.tensors import TensorInfo, nbytes

#: Key of the rows for the task that the model was registered with, or for the class that its config.json names.
OWN = ""

Stored = Sequence[Mapping[str, Any]] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a policy is resolved over. The `initialised` tensors start at random values."""

    tensors: list[TensorInfo]
    initialised: frozenset[str] = frozenset()
    open_head: bool = False  # a new head, of which nobody has said how many classes it has


class ManifestCache:
    """Manifests that were read lately: one never changes once it is written, and reading one is half of a preview."""

    def __init__(self, *, rows: int = 50_000) -> None:
        self._limit = rows
        self._kept: OrderedDict[Hashable, Stored] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Stored | None]) -> Stored | None:
        """What is kept under `key`, or else what `read` finds; None is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = read()
        if found is not None:
            with self._lock:
                self._kept[key] = found
                while sum(map(_rows, self._kept.values())) > self._limit:
                    self._kept.popitem(last=False)
        return found


def for_task(stored: Stored, task: str, *, num_labels: int | None = None) -> Manifest | None:
    """The tensors for a task, with a head of that many classes; None where nothing is known for this task."""
    if not isinstance(stored, Mapping):
        return _read(stored, None)
    found: Any = stored.get(task)
    if task == "text-regression":
        num_labels = num_labels or 1
    for _ in stored:  # the name of another task, with the same tensors
        found = stored[found] if isinstance(found, str) else found
    if isinstance(found, str):
        raise ValueError(f"the tasks {task!r} and {found!r} name each other")
    return _read(found, num_labels) if found is not None else None


def checked(stored: Any) -> Any:
    """What a worker's child wrote, if it can be read; LookupError, TypeError or ValueError if not."""
    lists = stored.values() if isinstance(stored, dict) else [stored]
    if not all(isinstance(row, dict) for rows in lists if not isinstance(rows, str) for row in rows):
        raise TypeError("a row is no object")
    for task in stored if isinstance(stored, dict) else [OWN]:
        read = for_task(stored, task)
        if read is None or not read.tensors:
            raise ValueError(f"no tensors for the task {task!r}")
        for tensor in read.tensors:
            nbytes(tensor.elements, tensor.dtype)
    return stored


def _read(rows: Sequence[Mapping[str, Any]], num_labels: int | None) -> Manifest:
    tensors, initialised, open_head = [], set(), False
    for row in rows:
        counts_labels = row.get("labels", False)
        resized = counts_labels and num_labels is not None and row["shape"][0] != num_labels
        if resized:
            row = {**row, "shape": [num_labels, *row["shape"][1:]]}
        tensors.append(TensorInfo.from_json(row))
        if resized or row.get("initialised"):
            initialised.add(row["name"])
            open_head |= counts_labels and num_labels is None
    return Manifest(tensors, frozenset(initialised), open_head)


def _rows(stored: Stored) -> int:
    lists = stored.values() if isinstance(stored, Mapping) else [stored]
    return sum(len(rows) for rows in lists if not isinstance(rows, str))
