"""What changed between two stored models: `permafrost diff` over blobs, written out while it is found.

Tensors with the same digest are not read; the others stream, so a model may be larger than memory.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from app.errors import Conflict, NotFound
from app.evidence.diff.diff import STATUSES, Difference, ModelTensor, differences, plan_of, violations
from app.freeze.plan import FreezePlan
from app.freeze.policy import Policy
from app.models.tables import Model
from app.storage.blobs import Storage


class OpenBlobs:
    """Blobs that stay open until the block ends, each opened when it is first read."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "OpenBlobs":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, key: str, start: int, stop: int) -> bytes:
        if key not in self._open:
            self._open[key] = self._stack.enter_context(self._storage.open(key))
        self._open[key].seek(start)
        data = self._open[key].read(stop - start)
        if len(data) != stop - start:
            raise ValueError(f"blob {key} ends before its tensors do")
        return data


@dataclass(frozen=True, slots=True)
class BlobSlice:
    """A tensor inside a blob."""

    blobs: OpenBlobs
    key: str
    offset: int

    def read(self, start: int, stop: int) -> bytes:
        return self.blobs.read(self.key, self.offset + start, self.offset + stop)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models whose blobs are there, and the plan that the second is held to, if any."""

    base: Model
    result: Model
    blobs: OpenBlobs
    plan: FreezePlan | None

    def written(self, *, statistics: bool, everything: bool) -> Iterator[str]:
        """The answer as JSON, tensor by tensor; verdict and counts come last."""
        with self.blobs as blobs:
            base, result = (tensors_of(row, blobs) for row in (self.base, self.result))
            head = {"object": "model.comparison", "base": self.base.id, "result": self.result.id}
            yield f'{json.dumps(head)[:-1]}, "tensors": ['
            found: list[Difference] = []
            comma = ""
            for each in differences(base, result, statistics=statistics):
                found.append(each)
                if everything or each.status != "same":
                    yield comma + json.dumps(each.to_json())
                    comma = ",\n"
            yield f"], {json.dumps(self._judged(found))[1:]}"

    def _judged(self, found: list[Difference]) -> dict[str, Any]:
        counts = Counter(each.status for each in found)
        broken = violations(found, self.plan) if self.plan else []
        verdict = ("violated" if broken else "identical") if self.plan else None
        return {
            "counts": {status: counts[status] for status in STATUSES},
            "verdict": verdict,
            "violations": [{"name": each.name, "rule": each.rule, "reason": each.reason} for each in broken],
        }


def prepare(storage: Storage, base: Model, result: Model, policy: Policy | None) -> Comparison:
    """Everything that can be wrong is found here, before the answer begins."""
    blobs = OpenBlobs(storage)
    for row in (base, result):
        if row.status == "failed" or not row.tensors:
            raise Conflict(f"the tensors of model {row.id} are not known (it is {row.status})", code="model_not_read")
    mine, theirs = (tensors_of(row, blobs) for row in (base, result))
    plan = plan_of(mine, theirs, policy) if policy is not None else None
    for key in sorted({each["blob"] for row in (base, result) for each in row.tensors}):
        if not storage.exists(key):
            raise NotFound(f"blob {key} is not in the storage; `permafrost doctor` lists what is missing")
    return Comparison(base, result, blobs, plan)


def tensors_of(row: Model, blobs: OpenBlobs) -> dict[str, ModelTensor]:
    return {
        each["name"]: ModelTensor(
            name=each["name"],
            dtype=each["dtype"],
            shape=tuple(each["shape"]),
            nbytes=each["nbytes"],
            source=BlobSlice(blobs, each["blob"], each["offset"]),
            sha256=each["sha256"],
        )
        for each in row.tensors
    }
