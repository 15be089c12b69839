"""The statement: an in-toto Statement v1 about every tensor of a base and of the result trained from it.

`build` makes the payload bytes from a Claim; `read` gives the same Claim back with the roots and counts that the signer
wrote. What either says is checked in `verify`, which recomputes whatever it can.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.evidence import fields, tree
from app.evidence.fields import StatementError
from app.evidence.keys import KeyFileError, iso, read_time

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:permafrost:frozen-parameters:v1"

# frozen: claimed to be the base's bytes. new: not from the base. buffer: a buffer that may move, or that no file holds.
# dropped: in the base, not in the model. scheduled: frozen during its intervals. split: some rows are frozen.
ROLES = ("frozen", "trainable", "split", "new", "buffer", "dropped", "scheduled")
RESULT_KINDS = ("full", "adapter")


@dataclass(frozen=True, slots=True)
class Reading:
    """One tensor as one file holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sha256: str

    def same(self, other: "Reading") -> bool:
        """Identity: raw bytes, dtype and shape. The name may differ."""
        return (self.dtype, self.shape, self.sha256) == (other.dtype, other.shape, other.sha256)


@dataclass(frozen=True, slots=True)
class RowSlice:
    """Rows of a partly frozen tensor and the digests of their bytes in the base and in the result."""

    rows: tuple[int, int]
    action: str  # "freeze" | "train"
    base: str | None
    result: str | None


@dataclass(frozen=True, slots=True)
class Interval:
    """Steps from_step < step <= to_step (None: the end) of a scheduled freeze, and the digests around them."""

    from_step: int
    to_step: int | None
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One live tensor, or (with `part`) the rows of it that one stored tensor makes up, or a base tensor left out.

    `name` and `aliases` are the live model's, and what the policy is about; the files' names are in the readings.
    `dtype` and `shape` of the live tensor are given where no reading has them: with `part`, or when no file holds it.
    """

    name: str
    kind: str = "parameter"  # "parameter" | "buffer"
    role: str
    mechanism: str | None = None
    rule: str = "default"
    aliases: tuple[str, ...] = ()
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
    changed: bool
    slices: tuple[RowSlice, ...] = ()
    intervals: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRef:
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a statement says. `policy` is the normal form; `observed` has checks, first_step, last_step, fingerprint.

    `previous` is the SHA-256 of the payload of the statement about the base, where the base is a result of ours.
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


@dataclass(frozen=True, slots=True)
class Total:
    """How many tensors a set has, their bytes, and the root over them."""

    count: int
    nbytes: int
    root: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as read: the claim, and what its signer derived from it."""

    claim: Claim
    subjects: tuple[tuple[str, Mapping[str, str]], ...]  # name, digests
    kind: str
    predicate_type: str
    scheme: Mapping[str, Any]
    base: Total
    result: Total
    frozen: Total


def build(claim: Claim) -> bytes:
    """The payload to sign. Rows are put in order; roots, counts and subjects follow from them."""
    rows = sorted(claim.rows, key=row_order)
    totals = {name: _total_json(total(readings)) for name, readings in _sets(rows).items()}
    predicate: dict[str, Any] = {
        "job": {"id": claim.job_id, "attempt": claim.attempt, "nonce": claim.nonce},
        "issuedAt": iso(claim.issued_at),
        "scheme": tree.SCHEME,
        "policy": {"digest": {"sha256": claim.policy_digest}, **claim.policy},
        "resultKind": claim.result_kind,
        "base": {"files": [_file_json(file) for file in claim.base_files], **totals["base"]},
        "result": {
            "files": [_file_json(file) for file in claim.result_files],
            "metadata": dict(claim.metadata),
            **totals["result"],
        },
        "frozen": totals["frozen"],
        "observed": {**claim.observed, "violations": list(claim.violations)},
        "parameters": [_row_json(row) for row in rows],
    }
    if claim.previous:
        predicate["previous"] = {"digest": {"sha256": claim.previous}}
    files = sorted(claim.result_files, key=lambda file: file.name.encode())
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file.name, "digest": {"sha256": file.sha256}} for file in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
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
    """What the frozen claim is about: as the result holds it, or the base where an adapter leaves it there."""
    return [reading for row in rows if row.role == "frozen" and (reading := row.result or row.base)]


def changed(base: Reading | None, result: Reading | None) -> bool:
    """The `changed` flag: the result holds something else than the base."""
    return result is not None and (base is None or not base.same(result))


def read(document: Any) -> Statement:
    """A statement from parsed JSON. Missing or mistyped fields raise StatementError; `strangers` lists unknown ones."""
    top = fields.as_object(document, "statement")
    predicate = fields.as_object(fields.field_of(top, "predicate", "statement"), "predicate")
    job, policy = (fields.as_object(fields.field_of(predicate, name, "predicate"), name) for name in ("job", "policy"))
    base, result = (
        fields.as_object(fields.field_of(predicate, name, "predicate"), name) for name in ("base", "result")
    )
    observed = dict(fields.as_object(fields.field_of(predicate, "observed", "predicate"), "observed"))
    previous = predicate.get("previous")
    claim = Claim(
        job_id=fields.text(job, "id", "job"),
        attempt=fields.count(job, "attempt", "job"),
        nonce=fields.optional_text(job, "nonce", "job"),
        issued_at=_time(predicate),
        policy={key: value for key, value in policy.items() if key != "digest"},
        policy_digest=fields.digest(policy, "digest", "policy"),
        base_files=_files(base, "base"),
        result_files=_files(result, "result"),
        rows=tuple(
            _row(row, f"parameters[{at}]")
            for at, row in enumerate(fields.as_list(predicate, "parameters", "predicate"))
        ),
        violations=tuple(str(entry) for entry in fields.as_list(observed, "violations", "observed")),
        observed={key: value for key, value in observed.items() if key != "violations"},
        result_kind=fields.one_of(predicate, "resultKind", "predicate", RESULT_KINDS),
        metadata=_metadata(result),
        previous=None
        if previous is None
        else fields.digest(fields.as_object(previous, "previous"), "digest", "previous"),
    )
    return Statement(
        claim,
        tuple(
            _subject(entry, f"subject[{at}]") for at, entry in enumerate(fields.as_list(top, "subject", "statement"))
        ),
        fields.text(top, "_type", "statement"),
        fields.text(top, "predicateType", "statement"),
        fields.as_object(fields.field_of(predicate, "scheme", "predicate"), "scheme"),
        _total(base, "base"),
        _total(result, "result"),
        _total(fields.as_object(fields.field_of(predicate, "frozen", "predicate"), "frozen"), "frozen"),
    )


_DIGEST: dict[str, Any] = {"sha256": None}
_FILE = {"name": None, "digest": _DIGEST, "size": None}
_READING = {"name": None, "dtype": None, "shape": None, "nbytes": None, "digest": _DIGEST}
_ROW: dict[str, Any] = {
    **dict.fromkeys(("name", "kind", "role", "mechanism", "rule", "aliases", "moduleTypes", "persistent")),
    **dict.fromkeys(("dtype", "shape", "part", "loaded", "trained", "changed")),
    **dict.fromkeys(("base", "result", "initial"), _READING),
    "slices": [{"rows": None, "action": None, "base": None, "result": None}],
    "intervals": [{"fromStep": None, "toStep": None, "before": None, "after": None}],
}
# Every field that a statement may have. None: a value, a mapping: an object with these fields, a list: of such objects.
_FORM: dict[str, Any] = {
    "_type": None,
    "subject": [{"name": None, "digest": None}],
    "predicateType": None,
    "predicate": {
        "job": dict.fromkeys(("id", "attempt", "nonce")),
        "issuedAt": None,
        "scheme": None,
        "policy": None,  # app.freeze.policy refuses unknown keys itself
        "resultKind": None,
        "base": {"files": [_FILE], **dict.fromkeys(("count", "nbytes", "root"))},
        "result": {"files": [_FILE], "metadata": None, **dict.fromkeys(("count", "nbytes", "root"))},
        "frozen": dict.fromkeys(("count", "nbytes", "root")),
        "observed": dict.fromkeys(("checks", "first_step", "last_step", "fingerprint", "violations")),
        "parameters": [_ROW],
        "previous": {"digest": _DIGEST},
    },
}


def strangers(document: Any, form: Any = _FORM, at: str = "") -> Iterator[str]:
    """Paths of fields that no statement of this version has."""
    if isinstance(form, list) and isinstance(document, list):
        for index, value in enumerate(document):
            yield from strangers(value, form[0], f"{at}[{index}]")
    elif isinstance(form, dict) and isinstance(document, dict):
        for key, value in document.items():
            where = f"{at}.{key}".lstrip(".")
            if key not in form:
                yield where
            elif form[key] is not None:
                yield from strangers(value, form[key], where)


def _sets(rows: Sequence[Row]) -> dict[str, list[Reading]]:
    return {"base": base_readings(rows), "result": result_readings(rows), "frozen": frozen_readings(rows)}


def _total_json(value: Total) -> dict[str, Any]:
    return {"count": value.count, "nbytes": value.nbytes, "root": value.root}


def _file_json(file: FileRef) -> dict[str, Any]:
    return {"name": file.name, "digest": {"sha256": file.sha256}, "size": file.size}


def _reading_json(reading: Reading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        "name": reading.name,
        "dtype": reading.dtype,
        "shape": list(reading.shape),
        "nbytes": reading.nbytes,
        "digest": {"sha256": reading.sha256},
    }


def _row_json(row: Row) -> dict[str, Any]:
    """Fields that say nothing are left out; a thousand rows are read by people too."""
    out: dict[str, Any] = {
        "name": row.name,
        "kind": row.kind,
        "role": row.role,
        "rule": row.rule,
        "changed": row.changed,
    }
    optional = {
        "mechanism": row.mechanism,
        "aliases": list(row.aliases),
        "moduleTypes": list(row.module_types),
        "dtype": row.dtype,
        "shape": None if row.shape is None else list(row.shape),
        "part": None if row.part is None else list(row.part),
        "base": _reading_json(row.base),
        "result": _reading_json(row.result),
        "initial": _reading_json(row.initial),
        "loaded": row.loaded,
        "trained": row.trained,
        "slices": [
            {"rows": list(part.rows), "action": part.action, "base": part.base, "result": part.result}
            for part in row.slices
        ],
        "intervals": [
            {"fromStep": span.from_step, "toStep": span.to_step, "before": span.before, "after": span.after}
            for span in row.intervals
        ],
    }
    # An empty shape is a scalar's and does say something.
    out |= {key: value for key, value in optional.items() if value or (key == "shape" and value is not None)}
    return out if row.persistent else {**out, "persistent": False}


def _row(value: Any, at: str) -> Row:
    row = fields.as_object(value, at)
    return Row(
        name=fields.text(row, "name", at),
        kind=fields.one_of(row, "kind", at, ("parameter", "buffer")),
        role=fields.one_of(row, "role", at, ROLES),
        mechanism=fields.optional_text(row, "mechanism", at),
        rule=fields.text(row, "rule", at),
        aliases=fields.texts(row, "aliases", at),
        module_types=fields.texts(row, "moduleTypes", at),
        persistent=fields.flag(row, "persistent", at) if "persistent" in row else True,
        dtype=fields.optional_text(row, "dtype", at),
        shape=fields.shape(row, "shape", at) if "shape" in row else None,
        part=fields.pair(row["part"], f"{at}.part") if "part" in row else None,
        base=_reading(row, "base", at),
        result=_reading(row, "result", at),
        initial=_reading(row, "initial", at),
        loaded=fields.optional_hex(row, "loaded", at),
        trained=fields.optional_hex(row, "trained", at),
        changed=fields.flag(row, "changed", at),
        slices=tuple(
            _slice(part, f"{at}.slices[{n}]") for n, part in enumerate(fields.optional_list(row, "slices", at))
        ),
        intervals=tuple(
            _interval(span, f"{at}.intervals[{n}]") for n, span in enumerate(fields.optional_list(row, "intervals", at))
        ),
    )


def _reading(row: Mapping[str, Any], name: str, at: str) -> Reading | None:
    if row.get(name) is None:
        return None
    value, at = fields.as_object(row[name], f"{at}.{name}"), f"{at}.{name}"
    shape = fields.shape(value, "shape", at)
    return Reading(
        fields.text(value, "name", at),
        fields.text(value, "dtype", at),
        shape,
        fields.count(value, "nbytes", at),
        fields.digest(value, "digest", at),
    )


def _slice(value: Any, at: str) -> RowSlice:
    part = fields.as_object(value, at)
    action = fields.one_of(part, "action", at, ("freeze", "train"))
    rows = fields.pair(fields.field_of(part, "rows", at), f"{at}.rows")
    return RowSlice(rows, action, fields.optional_hex(part, "base", at), fields.optional_hex(part, "result", at))


def _interval(value: Any, at: str) -> Interval:
    span = fields.as_object(value, at)
    stop = None if span.get("toStep") is None else fields.count(span, "toStep", at)
    return Interval(
        fields.count(span, "fromStep", at), stop, fields.hex(span, "before", at), fields.hex(span, "after", at)
    )


def _subject(value: Any, at: str) -> tuple[str, Mapping[str, str]]:
    subject = fields.as_object(value, at)
    digest = fields.as_object(fields.field_of(subject, "digest", at), f"{at}.digest")
    return fields.text(subject, "name", at), {key: fields.text(digest, key, f"{at}.digest") for key in digest}


def _files(value: Mapping[str, Any], at: str) -> tuple[FileRef, ...]:
    entries = [
        (fields.as_object(entry, f"{at}.files[{n}]"), f"{at}.files[{n}]")
        for n, entry in enumerate(fields.as_list(value, "files", at))
    ]
    return tuple(
        FileRef(fields.text(f, "name", p), fields.count(f, "size", p), fields.digest(f, "digest", p))
        for f, p in entries
    )


def _metadata(result: Mapping[str, Any]) -> dict[str, str]:
    metadata = fields.as_object(fields.field_of(result, "metadata", "result"), "result.metadata")
    return {key: fields.text(metadata, key, "result.metadata") for key in metadata}


def _total(value: Mapping[str, Any], at: str) -> Total:
    return Total(fields.count(value, "count", at), fields.count(value, "nbytes", at), fields.hex(value, "root", at))


def _time(predicate: Mapping[str, Any]) -> datetime:
    try:
        moment = read_time(fields.text(predicate, "issuedAt", "predicate"))
    except KeyFileError as error:
        raise StatementError(f"predicate.issuedAt: {error}") from None
    assert moment is not None  # only None reads as None
    return moment
