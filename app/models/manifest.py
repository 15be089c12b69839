"""The tensors of a model as a worker stored them: per task, or once for a torch model or a result.

A row is a TensorInfo as JSON, with `initialised` where the model's files do not have the tensor, and `labels` where
dimension 0 is the number of classes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.freeze.tensors import TensorInfo, nbytes
from app.specs.fit import ONE_OUTPUT

#: Key of the rows for the task that the model was registered with, or else of the class in its config.json.
OWN = ""

#: Tasks that a base's manifest may lack because a worker of an earlier version read it, and ones with the same tensors.
_ALIKE: Final = {"text-ranking": "text-regression"}

Stored = Sequence[Mapping[str, Any]] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The tensors that a policy is resolved over. Those in `initialised` start at random values."""

    tensors: list[TensorInfo]
    initialised: frozenset[str] = frozenset()
    open_head: bool = False  # has a new head whose number of classes is not known


class ManifestCache:
    """A cache of the manifests read last, `rows` rows in all: they never change, and reading one is slow."""

    def __init__(self, *, rows: int = 50_000) -> None:
        self._limit = rows
        self._kept: OrderedDict[Hashable, Stored] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Stored | None]) -> Stored | None:
        """The manifest under `key`, or else what `read` returns, which is kept unless it is None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        manifest = read()
        if manifest is not None:
            with self._lock:
                self._kept[key] = manifest
                while sum(map(_rows, self._kept.values())) > self._limit:
                    self._kept.popitem(last=False)
        return manifest


def for_task(stored: Stored, task: str, *, num_labels: int | None = None) -> Manifest | None:
    """The tensors for a task, with a head of `num_labels` classes; None where they are not known for this task."""
    if not isinstance(stored, Mapping):
        return _read(stored, None)
    rows: Any = stored.get(task, stored.get(_ALIKE.get(task, task)))
    if task in ONE_OUTPUT:
        num_labels = num_labels or 1
    for _ in stored:  # a text is the name of another task with the same tensors
        rows = stored[rows] if isinstance(rows, str) else rows
    if isinstance(rows, str):
        raise ValueError(f"the tasks {task!r} and {rows!r} refer to each other")
    return _read(rows, num_labels) if rows is not None else None


def checked(stored: Any) -> Any:
    """The manifest that a worker's child process wrote. Raises LookupError, TypeError or ValueError if unreadable."""
    lists = stored.values() if isinstance(stored, dict) else [stored]
    if not all(isinstance(row, dict) for rows in lists if not isinstance(rows, str) for row in rows):
        raise TypeError("a row is not an object")
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
