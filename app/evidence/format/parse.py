"""Reads a statement from parsed JSON: its predicate, and the roots and counts that its signer wrote.

Only the form is checked here. The verifier checks the values.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from app.evidence.format import fields
from app.evidence.format.fields import StatementError
from app.evidence.format.keys import KeyFileError, read_time
from app.evidence.format.statement import (
    ORIGIN,
    RESULT_KINDS,
    ROLES,
    FileRef,
    FrozenInterval,
    Predicate,
    Reading,
    Row,
    RowSlice,
    Statement,
    Total,
)
from app.jsontypes import JsonDict


def read(document: Any) -> Statement:
    """The statement in a JSON document. Raises StatementError for missing and mistyped fields; ignores unknown ones."""
    top = fields.as_object(document, "statement")
    body = fields.as_object(fields.field_of(top, "predicate", "statement"), "predicate")
    job, policy = (fields.as_object(fields.field_of(body, name, "predicate"), name) for name in ("job", "policy"))
    base, result = (fields.as_object(fields.field_of(body, name, "predicate"), name) for name in ("base", "result"))
    observed = dict(fields.as_object(fields.field_of(body, "observed", "predicate"), "observed"))
    previous = body.get("previous")
    predicate = Predicate(
        job_id=fields.text(job, "id", "job"),
        attempt=fields.count(job, "attempt", "job"),
        nonce=fields.optional_text(job, "nonce", "job"),
        issued_at=_time(body),
        policy={key: value for key, value in policy.items() if key != "digest"},
        policy_digest=fields.digest(policy, "digest", "policy"),
        base_files=_files(base, "base"),
        result_files=_files(result, "result"),
        rows=tuple(
            _row(row, f"parameters[{at}]") for at, row in enumerate(fields.as_list(body, "parameters", "predicate"))
        ),
        violations=tuple(str(entry) for entry in fields.as_list(observed, "violations", "observed")),
        observed={key: value for key, value in observed.items() if key != "violations"},
        result_kind=fields.one_of(body, "resultKind", "predicate", RESULT_KINDS),
        metadata=_metadata(result),
        origin=_origin(base),
        previous=None
        if previous is None
        else fields.digest(fields.as_object(previous, "previous"), "digest", "previous"),
    )
    return Statement(
        predicate,
        tuple(
            _subject(entry, f"subject[{at}]") for at, entry in enumerate(fields.as_list(top, "subject", "statement"))
        ),
        fields.text(top, "_type", "statement"),
        fields.text(top, "predicateType", "statement"),
        fields.as_object(fields.field_of(body, "scheme", "predicate"), "scheme"),
        _total(base, "base"),
        _total(result, "result"),
        _total(fields.as_object(fields.field_of(body, "frozen", "predicate"), "frozen"), "frozen"),
    )


_DIGEST: JsonDict = {"sha256": None}
_FILE = {"name": None, "digest": _DIGEST, "size": None}
_READING = {"name": None, "dtype": None, "shape": None, "nbytes": None, "digest": _DIGEST}
_ROW: JsonDict = {
    **dict.fromkeys(("name", "kind", "role", "mechanism", "rule", "aliases", "aliasOf", "moduleTypes", "persistent")),
    **dict.fromkeys(("dtype", "shape", "part", "loaded", "trained", "quantised", "decoded", "changed")),
    **dict.fromkeys(("base", "result", "initial"), _READING),
    "slices": [dict.fromkeys(("rows", "action", "base", "result", "initial"))],
    "intervals": [{"fromStep": None, "toStep": None, "before": None, "after": None}],
}
# Every field that a statement may have. None: a value, a mapping: an object with these fields, a list: of such objects.
_FORM: JsonDict = {
    "_type": None,
    "subject": [{"name": None, "digest": None}],
    "predicateType": None,
    "predicate": {
        "job": dict.fromkeys(("id", "attempt", "nonce")),
        "issuedAt": None,
        "scheme": None,
        "policy": None,  # app.freeze.policy refuses unknown keys itself
        "resultKind": None,
        "base": {"files": [_FILE], "origin": dict.fromkeys(ORIGIN), **dict.fromkeys(("count", "nbytes", "root"))},
        "result": {"files": [_FILE], "metadata": None, **dict.fromkeys(("count", "nbytes", "root"))},
        "frozen": dict.fromkeys(("count", "nbytes", "root")),
        "observed": dict.fromkeys(("checks", "first_step", "last_step", "fingerprint", "violations")),
        "parameters": [_ROW],
        "previous": {"digest": _DIGEST},
    },
}


def strangers(document: Any, form: Any = _FORM, at: str = "") -> Iterator[str]:
    """Paths of the fields that this version of the format does not have."""
    if isinstance(form, list) and isinstance(document, list):
        flat = form[0].keys() if not any(form[0].values()) else ()
        for index, value in enumerate(document):
            if flat and isinstance(value, dict) and value.keys() <= flat:
                continue
            yield from strangers(value, form[0], f"{at}[{index}]")
    elif isinstance(form, dict) and isinstance(document, dict):
        for key, value in document.items():
            where = f"{at}.{key}".lstrip(".")
            if key not in form:
                yield where
            elif form[key] is not None:
                yield from strangers(value, form[key], where)


def _row(value: Any, at: str) -> Row:
    row = fields.as_object(value, at)
    return Row(
        name=fields.text(row, "name", at),
        kind=fields.one_of(row, "kind", at, ("parameter", "buffer")),
        role=fields.one_of(row, "role", at, ROLES),
        mechanism=fields.optional_text(row, "mechanism", at),
        rule=fields.text(row, "rule", at),
        aliases=fields.texts(row, "aliases", at),
        alias_of=fields.optional_text(row, "aliasOf", at),
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
        quantised=fields.optional_hex(row, "quantised", at),
        decoded=fields.optional_hex(row, "decoded", at),
        changed=fields.flag(row, "changed", at),
        slices=tuple(
            _plain_slice(part) or _slice(part, f"{at}.slices[{n}]")
            for n, part in enumerate(fields.optional_list(row, "slices", at))
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


def _plain_slice(value: Any) -> RowSlice | None:
    """A slice that is as it should be; None for any other, which `_slice` looks at. A statement may have 200,000."""
    if not isinstance(value, dict):
        return None
    get = value.get
    rows, action, base, result, initial = get("rows"), get("action"), get("base"), get("result"), get("initial")
    if type(rows) is not list or len(rows) != 2 or (action != "freeze" and action != "train"):
        return None
    start, stop = rows
    if type(start) is not int or type(stop) is not int or not 0 <= start < 1 << 63 > stop >= 0:
        return None
    for digest in (base, result, initial):
        if digest is not None and not fields.is_hex(digest):
            return None
    return RowSlice((start, stop), action, base, result, initial)


def _slice(value: Any, at: str) -> RowSlice:
    part = fields.as_object(value, at)
    action = fields.one_of(part, "action", at, ("freeze", "train"))
    rows = fields.pair(fields.field_of(part, "rows", at), f"{at}.rows")
    base, result, initial = (fields.optional_hex(part, name, at) for name in ("base", "result", "initial"))
    return RowSlice(rows, action, base, result, initial)


def _interval(value: Any, at: str) -> FrozenInterval:
    span = fields.as_object(value, at)
    stop = None if span.get("toStep") is None else fields.count(span, "toStep", at)
    return FrozenInterval(
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


def _origin(base: Mapping[str, Any]) -> dict[str, str] | None:
    if "origin" not in base:
        return None
    origin = fields.as_object(base["origin"], "base.origin")
    return {key: fields.text(origin, key, "base.origin") for key in origin}


def _total(value: Mapping[str, Any], at: str) -> Total:
    return Total(fields.count(value, "count", at), fields.count(value, "nbytes", at), fields.hex(value, "root", at))


def _time(body: Mapping[str, Any]) -> datetime:
    try:
        moment = read_time(fields.text(body, "issuedAt", "predicate"))
    except KeyFileError as error:
        raise StatementError(f"predicate.issuedAt: {error}") from None
    assert moment is not None  # only None reads as None
    return moment
