"""Compares two stored models, as `permafrost diff` does with folders, and streams the answer.

Tensors with equal digests are not read; the others are streamed, so a model may be larger than memory.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

from app.errors import Conflict, NotFound
from app.evidence.diff.diff import STATUSES, Difference, ModelTensor, differences, plan_of, violations
from app.freeze.plan import FreezePlan
from app.freeze.policy import Policy
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.storage.blobs import Storage


class OpenBlobs:
    """Blobs of a storage, each opened at its first read and open until the block ends."""

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
            raise ValueError(f"blob {key} is shorter than its tensors")
        return data


@dataclass(frozen=True, slots=True)
class BlobSlice:
    """The bytes of a tensor inside a blob."""

    blobs: OpenBlobs
    key: str
    offset: int

    def read(self, start: int, stop: int) -> bytes:
        return self.blobs.read(self.key, self.offset + start, self.offset + stop)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models whose blobs are stored, and the freeze plan to check the second against, if any."""

    base: Model
    result: Model
    blobs: OpenBlobs
    plan: FreezePlan | None

    def to_json_lines(self, *, statistics: bool, everything: bool) -> Iterator[str]:
        """Yield the answer as JSON, tensor by tensor; counts and verdict come last."""
        with self.blobs as blobs:
            base, result = (tensors_of(row, blobs) for row in (self.base, self.result))
            head = {"object": "model.comparison", "base": self.base.id, "result": self.result.id}
            yield f'{json.dumps(head)[:-1]}, "tensors": ['
            compared: list[Difference] = []
            comma = ""
            for difference in differences(base, result, statistics=statistics):
                compared.append(difference)
                if everything or difference.status != "same":
                    yield comma + json.dumps(difference.to_json())
                    comma = ",\n"
            yield f"], {json.dumps(self._summary(compared))[1:]}"

    def _summary(self, compared: list[Difference]) -> JsonDict:
        counts = Counter(difference.status for difference in compared)
        broken = violations(compared, self.plan) if self.plan else []
        verdict = ("violated" if broken else "identical") if self.plan else None
        return {
            "counts": {status: counts[status] for status in STATUSES},
            "verdict": verdict,
            "violations": [{"name": item.name, "rule": item.rule, "reason": item.reason} for item in broken],
        }


def prepare(storage: Storage, base: Model, result: Model, policy: Policy | None) -> Comparison:
    """Check everything that can fail before the answer starts. Raises Conflict, NotFound or PolicyError."""
    blobs = OpenBlobs(storage)
    for row in (base, result):
        if row.status == "failed" or not row.tensors:
            raise Conflict(
                f"the tensors of model {row.id} are not known (its status is {row.status})", code="model_not_read"
            )
    base_tensors, result_tensors = (tensors_of(row, blobs) for row in (base, result))
    plan = plan_of(base_tensors, result_tensors, policy) if policy is not None else None
    for key in sorted({tensor["blob"] for row in (base, result) for tensor in row.tensors}):
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
