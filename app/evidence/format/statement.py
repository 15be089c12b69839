"""The signed statement: an in-toto Statement v1 about every tensor of a base and of the result trained from it.

`build` makes the payload bytes from a Predicate, and `parse.read` returns the same Predicate with the roots and counts
that the signer wrote. The verifier checks them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from app.evidence.format import tree
from app.evidence.format.keys import iso
from app.jsontypes import JsonDict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:permafrost:frozen-parameters:v1"

# frozen: has the base's bytes. new: not from the base. buffer: a buffer that may change, or that no file holds.
# dropped: in the base, not in the model. scheduled: frozen during its intervals. split: some rows are frozen.
ROLES = ("frozen", "trainable", "split", "new", "buffer", "dropped", "scheduled")
RESULT_KINDS = ("full", "adapter")
# Of a base: its name here; the job whose result, checkpoint (with its step) or first weights it is; a hub's revision;
# the adapter over it that was trained on.
ORIGIN = ("model", "kind", "job", "step", "repository", "revision", "adapter")


class Reading(NamedTuple):
    """One tensor as one file holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sha256: str

    def same(self, other: "Reading") -> bool:
        """True for the same raw bytes, dtype and shape. The names may differ."""
        return (self.dtype, self.shape, self.sha256) == (other.dtype, other.shape, other.sha256)

    def difference(self, later: "Reading") -> str:
        """How a later reading that is not the same differs, in words."""
        if self.dtype != later.dtype:
            return f"dtype {self.dtype} became {later.dtype}"
        if self.shape != later.shape:
            return f"shape {list(self.shape)} became {list(later.shape)}"
        return "other bytes"


class RowSlice(NamedTuple):
    """Rows of a partly frozen tensor and the digests of their bytes in the base and in the result."""

    rows: tuple[int, int]
    action: str  # "freeze" | "train"
    base: str | None
    result: str | None
    initial: str | None = None  # of rows that the base does not have: as they were before the first step


class FrozenInterval(NamedTuple):
    """Steps from_step < step <= to_step (None: the end) of a scheduled freeze, and the digests around them."""

    from_step: int
    to_step: int | None
    before: str
    after: str


class Row(NamedTuple):
    """One live tensor, or (with `part`) the rows of it that one stored tensor makes up, or a base tensor left out.

    `name` and `aliases` are the live model's, and what the policy is about; the files' names are in the readings.
    `dtype` and `shape` of the live tensor are given where no reading has them: with `part`, or when no file holds it.
    A tied tensor that the result stores under several names has a row for each: the further ones say `alias_of`.
    """

    name: str
    role: str
    changed: bool
    kind: str = "parameter"  # "parameter" | "buffer"
    mechanism: str | None = None
    rule: str = "default"
    aliases: tuple[str, ...] = ()
    alias_of: str | None = None
    module_types: tuple[str, ...] = ()
    persistent: bool = True
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    part: tuple[int, int] | None = None
    base: Reading | None = None
    result: Reading | None = None
    initial: Reading | None = None  # of a new tensor: as it was before the first step
    loaded: str | None = None  # digests of the live bytes, the trainer's word
    trained: str | None = None
    quantised: str | None = None  # digest of codes and scales that the base's weight was quantised to for training
    decoded: str | None = None  # digest of the plain weight that the base's codes were decoded to for training
    slices: tuple[RowSlice, ...] = ()
    intervals: tuple[FrozenInterval, ...] = ()

    @property
    def made(self) -> str | None:
        """Digest of what loading made of the stored tensor for the computation; None where it is computed with."""
        return self.quantised or self.decoded


class FileRef(NamedTuple):
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicate:
    """A statement's content. `policy` is the normal form; `observed` has checks, first_step, last_step, fingerprint.

    `previous` is the SHA-256 of the payload of the statement about the base, where the base is a result of ours.
    `origin` says where the base came from, on the signer's word.
    """

    job_id: str
    attempt: int
    nonce: str | None
    issued_at: datetime
    policy: Mapping[str, Any]
    policy_digest: str
    base_files: tuple[FileRef, ...]
    result_files: tuple[FileRef, ...]
    rows: tuple[Row, ...]
    observed: Mapping[str, Any]
    violations: tuple[str, ...] = ()
    result_kind: str = "full"
    metadata: Mapping[str, str] = field(default_factory=dict)  # of the composed result file
    previous: str | None = None
    origin: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Total:
    """Count, bytes and root of a set of tensors."""

    count: int
    nbytes: int
    root: str


class Statement(NamedTuple):
    """A parsed statement: the predicate, and the totals that its signer wrote."""

    predicate: Predicate
    subjects: tuple[tuple[str, Mapping[str, str]], ...]  # name, digests
    kind: str
    predicate_type: str
    scheme: Mapping[str, Any]
    base: Total
    result: Total
    frozen: Total


def build(predicate: Predicate) -> bytes:
    """The payload to sign, in UTF-8 JSON: rows sorted, with roots, counts and subjects computed from them."""
    rows = sorted(predicate.rows, key=row_order)
    totals = {name: _total_json(total(readings)) for name, readings in _sets(rows).items()}
    body: JsonDict = {
        "job": {"id": predicate.job_id, "attempt": predicate.attempt, "nonce": predicate.nonce},
        "issuedAt": iso(predicate.issued_at),
        "scheme": tree.SCHEME,
        "policy": {"digest": {"sha256": predicate.policy_digest}, **predicate.policy},
        "resultKind": predicate.result_kind,
        "base": {"files": [_file_json(file) for file in predicate.base_files], **totals["base"]},
        "result": {
            "files": [_file_json(file) for file in predicate.result_files],
            "metadata": dict(predicate.metadata),
            **totals["result"],
        },
        "frozen": totals["frozen"],
        "observed": {**predicate.observed, "violations": list(predicate.violations)},
        "parameters": [_row_json(row) for row in rows],
    }
    if predicate.origin:
        body["base"]["origin"] = dict(predicate.origin)
    if predicate.previous:
        body["previous"] = {"digest": {"sha256": predicate.previous}}
    files = sorted(predicate.result_files, key=lambda file: file.name.encode())
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file.name, "digest": {"sha256": file.sha256}} for file in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": body,
    }
    return json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()


def row_order(row: Row) -> tuple[bytes, tuple[int, int]]:
    return row.name.encode(), row.part or (0, 0)


def total(readings: Iterable[Reading]) -> Total:
    readings = list(readings)
    return Total(len(readings), sum(reading.nbytes for reading in readings), tree.root(readings))


def base_readings(rows: Iterable[Row]) -> list[Reading]:
    return [row.base for row in rows if row.base]


def result_readings(rows: Iterable[Row]) -> list[Reading]:
    return [row.result for row in rows if row.result]


def frozen_readings(rows: Iterable[Row]) -> list[Reading]:
    """Readings of the frozen tensors: the result's, or the base's where the result is an adapter."""
    return [reading for row in rows if row.role == "frozen" and (reading := row.result or row.base)]


def changed(base: Reading | None, result: Reading | None) -> bool:
    """The `changed` flag of a row: the result has other bytes, dtype or shape than the base."""
    return result is not None and (base is None or not base.same(result))


def _sets(rows: Sequence[Row]) -> dict[str, list[Reading]]:
    return {"base": base_readings(rows), "result": result_readings(rows), "frozen": frozen_readings(rows)}


def _total_json(value: Total) -> JsonDict:
    return {"count": value.count, "nbytes": value.nbytes, "root": value.root}


def _file_json(file: FileRef) -> JsonDict:
    return {"name": file.name, "digest": {"sha256": file.sha256}, "size": file.size}


def _reading_json(reading: Reading | None) -> JsonDict | None:
    if reading is None:
        return None
    return {
        "name": reading.name,
        "dtype": reading.dtype,
        "shape": list(reading.shape),
        "nbytes": reading.nbytes,
        "digest": {"sha256": reading.sha256},
    }


def _row_json(row: Row) -> JsonDict:
    """A row as JSON, without empty fields: people read statements of a thousand rows too."""
    out: JsonDict = {
        "name": row.name,
        "kind": row.kind,
        "role": row.role,
        "rule": row.rule,
        "changed": row.changed,
    }
    optional = {
        "mechanism": row.mechanism,
        "aliases": list(row.aliases),
        "aliasOf": row.alias_of,
        "moduleTypes": list(row.module_types),
        "dtype": row.dtype,
        "shape": None if row.shape is None else list(row.shape),
        "part": None if row.part is None else list(row.part),
        "base": _reading_json(row.base),
        "result": _reading_json(row.result),
        "initial": _reading_json(row.initial),
        "loaded": row.loaded,
        "trained": row.trained,
        "quantised": row.quantised,
        "decoded": row.decoded,
        "slices": [
            {"rows": list(part.rows), "action": part.action, "base": part.base, "result": part.result}
            | ({"initial": part.initial} if part.initial else {})
            for part in row.slices
        ],
        "intervals": [
            {"fromStep": span.from_step, "toStep": span.to_step, "before": span.before, "after": span.after}
            for span in row.intervals
        ],
    }
    # An empty shape is that of a scalar, so it is kept.
    out |= {key: value for key, value in optional.items() if value or (key == "shape" and value is not None)}
    return out if row.persistent else {**out, "persistent": False}
