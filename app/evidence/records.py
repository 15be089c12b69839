"""From what was read to what is claimed: four readings of every tensor become rows, a verdict, and database rows.

Pure functions. The base's and the result's readings are the supervisor's own; `loaded` and `trained` are the trainer's
word, which counts only where it agrees with the files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from app.errors import PolicyError
from app.evidence.digest import TensorReading
from app.evidence.statement import Interval, Reading, Row, RowSlice, changed, frozen_readings, row_order, total
from app.evidence.tables import Evidence, Parameter
from app.freeze.plan import Decision, FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy

#: Reasons are for people; the rows have the rest.
REASONS_SHOWN: Final = 3


RowRanges = dict[str, set[tuple[int, int]]]


class RecordsError(ValueError):
    """Observations that cannot be read as such."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored tensor, and the rows of the live one that it makes up (None: all of it)."""

    name: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One live tensor as the trainer observed it."""

    info: TensorInfo
    loaded: str | None
    trained: str | None
    base: tuple[Piece, ...]
    result: tuple[Piece, ...]
    slices: tuple[tuple[tuple[int, int], str | None, str | None], ...]  # rows, loaded, trained
    intervals: tuple[Interval, ...]
    first_changed_step: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """`violated`: a frozen tensor moved. `incomplete`: nobody can tell, since readings are missing or disagree."""

    verdict: str
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Judged:
    """Every row, and what follows from them. `violations` has an entry for each tensor that moved though frozen."""

    rows: tuple[Row, ...]
    verdict: str  # "verified" | "violated" | "incomplete"
    reason: str | None
    violations: tuple[dict[str, Any], ...]
    first_changed: Mapping[str, int | None]


def read_observations(document: Any) -> list[Seen]:
    """The tensors in `observations.json`. RecordsError names what is missing: it comes from the trainer's process."""
    try:
        return [_seen(tensor) for tensor in document["tensors"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordsError(f"observations.json cannot be read: {type(error).__name__} {error}") from error


def rows_needed(seen: Sequence[Seen]) -> tuple[RowRanges, RowRanges]:
    """Row ranges whose digests the judgement needs, by name in the base file and by name in the result file."""
    base: RowRanges = {}
    result: RowRanges = {}
    for tensor in seen:
        if any(piece.rows for piece in (*tensor.base, *tensor.result)):
            continue  # each piece is a stored tensor of its own, with a digest of its own
        for rows, _, _ in tensor.slices:
            for piece in tensor.base[:1]:
                base.setdefault(piece.name, set()).add(rows)
            for piece in tensor.result[:1]:
                result.setdefault(piece.name, set()).add(rows)
    return base, result


def judge(
    policy: Policy,
    seen: Sequence[Seen],
    *,
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
    reported: Sequence[Mapping[str, Any]] = (),
    kind: str = "full",
) -> Judged:
    """The claim about every tensor. `reported` are the witness' violations; `kind` says if the result is an adapter."""
    try:
        plan = resolve(policy, [tensor.info for tensor in seen])
    except (PolicyError, ValueError) as error:
        return Judged(
            (), "incomplete", f"the policy does not fit the tensors that the trainer observed: {error}", (), {}
        )
    rows = tuple(sorted(_rows(plan, seen, base, result), key=row_order))
    problems = [*_problems(rows, kind=kind), *_strays(rows, result)]
    violations = _violations(problems, reported, seen)
    verdict, reason = _verdict(rows, problems, violations)
    return Judged(rows, verdict, reason, violations, {each.info.name: each.first_changed_step for each in seen})


def challenged(judged: Judged, objections: Iterable[str]) -> Judged:
    """What a verifier would reject is not claimed: `verified` becomes `incomplete`, with what it would say."""
    found = list(objections)
    if judged.verdict != "verified" or not found:
        return judged
    reason = f"a verifier would reject the statement: {_listed(found)}"
    return replace(judged, verdict="incomplete", reason=reason)


def evidence_row(
    judged: Judged, *, job_id: str, attempt: int, checks: dict[str, Any], envelope: bytes, keyid: str
) -> Evidence:
    frozen = total(frozen_readings(judged.rows))
    return Evidence(
        job_id=job_id,
        attempt=attempt,
        verdict=judged.verdict,
        reason=judged.reason,
        frozen_tensors=frozen.count,
        frozen_bytes=frozen.nbytes,
        base_root=total(row.base for row in judged.rows if row.base).root,
        frozen_root=frozen.root,
        result_root=total(row.result for row in judged.rows if row.result).root,
        violations=list(judged.violations),
        checks=checks,
        keyid=keyid,
        envelope=envelope,
    )


def parameter_rows(
    judged: Judged,
    *,
    job_id: str,
    stats: Mapping[str, dict[str, Any]],
    history: Mapping[str, list[dict[str, Any]]] | None = None,
) -> list[Parameter]:
    """One row per tensor, by name. `stats` has change statistics by result name; `history` at checkpoints, by name."""
    rows = []
    for at, row in enumerate(judged.rows):
        end = stats.get(row.result.name) if row.result else None
        made = _parameter(row, judged, job_id=job_id, position=at, stats=end)
        made.history = list((history or {}).get(row.name, ()))
        rows.append(made)
    return rows


def _seen(tensor: Mapping[str, Any]) -> Seen:
    return Seen(
        info=TensorInfo.from_json(tensor),
        loaded=_digest(tensor.get("loaded")),
        trained=_digest(tensor.get("trained")),
        base=_pieces(tensor.get("base")),
        result=_pieces(tensor.get("result")),
        slices=tuple(
            (_pair(each["rows"]), _digest(each.get("loaded")), _digest(each.get("trained")))
            for each in tensor.get("slices") or ()
        ),
        intervals=tuple(
            Interval(int(each["from_step"]), each["to_step"], str(each["before"]), str(each["after"]))
            for each in tensor.get("intervals") or ()
            if each.get("before") and each.get("after")
        ),
        first_changed_step=tensor.get("first_changed_step"),
    )


def _pieces(value: Any) -> tuple[Piece, ...]:
    """A name, a list of pieces, or nothing."""
    if not value:
        return ()
    if isinstance(value, str):
        return (Piece(value),)
    return tuple(Piece(each["name"], _pair(each["rows"]) if each.get("rows") else None) for each in value)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    start, stop = value
    return int(start), int(stop)


def _digest(value: Any) -> str | None:
    """A SHA-256 in hex, or None. Anything else must not get into a statement."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not a SHA-256 in lower-case hex")
    return value


def _rows(
    plan: FreezePlan, seen: Sequence[Seen], base: Mapping[str, TensorReading], result: Mapping[str, TensorReading]
) -> Iterator[Row]:
    made: list[Row] = []
    for tensor in seen:
        decision = plan.decision(tensor.info.name)
        if any(piece.rows for piece in (*tensor.base, *tensor.result)):
            made += _part_rows(decision, tensor, base, result)
        else:
            made.append(_row(decision, tensor, base, result))
    yield from made
    # A tie may be stored under several names; the row has the first, and the copies are only in the base.
    used = {row.base.name for row in made if row.base}
    for name in sorted(set(base) - used):
        yield Row(name=name, role="dropped", base=_reading(base[name]), changed=False)


def _row(
    decision: Decision, tensor: Seen, base: Mapping[str, TensorReading], result: Mapping[str, TensorReading]
) -> Row:
    """A live tensor that is one tensor in each file, or in none."""
    before, after = _first(tensor.base, base), _first(tensor.result, result)
    role = _role(decision, has_base=before is not None)
    return Row(
        **_identity(decision, tensor),
        role=role,
        dtype=None if before or after else tensor.info.dtype,
        shape=None if before or after else tensor.info.shape,
        base=_reading(before),
        result=_reading(after),
        initial=_initial(tensor, after) if role == "new" else None,
        loaded=tensor.loaded,
        trained=tensor.trained,
        changed=changed(_reading(before), _reading(after)),
        slices=_slices(decision, before, after),
        intervals=tensor.intervals if role == "scheduled" else (),
    )


def _part_rows(
    decision: Decision, tensor: Seen, base: Mapping[str, TensorReading], result: Mapping[str, TensorReading]
) -> Iterator[Row]:
    """A live tensor that is stored in several: each is a row, with the live rows that it makes up."""
    seen = {rows: (loaded, trained) for rows, loaded, trained in tensor.slices}
    stored = {piece.rows or (0, tensor.info.shape[0]) for piece in (*tensor.base, *tensor.result)}
    for rows in sorted(stored):
        before = _first([piece for piece in tensor.base if piece.rows == rows], base)
        after = _first([piece for piece in tensor.result if piece.rows == rows], result)
        loaded, trained = seen.get(rows, (None, None))
        yield Row(
            **_identity(decision, tensor),
            role=_role(decision, has_base=before is not None),
            dtype=tensor.info.dtype,
            shape=tensor.info.shape,
            part=rows,
            base=_reading(before),
            result=_reading(after),
            loaded=loaded,
            trained=trained,
            changed=changed(_reading(before), _reading(after)),
        )


def _identity(decision: Decision, tensor: Seen) -> dict[str, Any]:
    return {
        "name": tensor.info.name,
        "kind": tensor.info.kind,
        "mechanism": decision.mechanism,
        "rule": decision.rule,
        "aliases": tensor.info.aliases,
        "module_types": tensor.info.module_types,
        "persistent": tensor.info.persistent,
    }


def _role(decision: Decision, *, has_base: bool) -> str:
    if not decision.persistent:
        return "buffer"
    if not has_base:
        return "new"
    if decision.action == "freeze":
        return "scheduled" if decision.scheduled else "frozen"
    if decision.action == "split":
        return "split"
    return "buffer" if decision.kind == "buffer" else "trainable"


def _slices(decision: Decision, before: TensorReading | None, after: TensorReading | None) -> tuple[RowSlice, ...]:
    if decision.action != "split":
        return ()
    ranges = [(rows, "freeze") for rows in decision.frozen_rows] + [(rows, "train") for rows in decision.trainable_rows]
    return tuple(
        RowSlice(rows, action, _rows_of(before, rows), _rows_of(after, rows)) for rows, action in sorted(ranges)
    )


def _rows_of(reading: TensorReading | None, rows: tuple[int, int]) -> str | None:
    slices = reading.slices if reading else ()
    return next((each.sha256 for each in slices if (each.start, each.stop) == rows), None)


def _initial(tensor: Seen, after: TensorReading | None) -> Reading | None:
    """A new tensor before its first step: the trainer's word, under the name and layout of the result."""
    if after is None or tensor.loaded is None:
        return None
    return Reading(after.name, tensor.info.dtype, tensor.info.shape, tensor.info.nbytes, tensor.loaded)


def _first(pieces: Iterable[Piece], readings: Mapping[str, TensorReading]) -> TensorReading | None:
    return next((readings[piece.name] for piece in pieces if piece.name in readings), None)


def _reading(tensor: TensorReading | None) -> Reading | None:
    if tensor is None:
        return None
    return Reading(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, tensor.sha256)


def _problems(rows: Iterable[Row], *, kind: str) -> Iterator[Problem]:
    for row in rows:
        if row.role == "frozen":
            yield from _of_frozen(row, kind=kind)
        elif row.role == "split":
            yield from _of_split(row)
        elif row.role == "scheduled":
            yield from _of_scheduled(row)
        elif row.role in ("new", "buffer") and row.mechanism and row.loaded != row.trained:
            yield Problem("violated", row.name, "changed during training, though frozen")
        yield from _of_result(row)


def _of_frozen(row: Row, *, kind: str) -> Iterator[Problem]:
    """All four readings have to have the same bytes, dtype and shape."""
    assert row.base is not None  # it would be "new" otherwise
    if row.result is None and kind == "full":
        yield Problem("violated", row.name, "is missing from the result, though frozen")
    elif row.result is not None and not row.base.same(row.result):
        yield Problem("violated", row.name, f"differs between base and result: {_difference(row.base, row.result)}")
    elif row.loaded is None or row.trained is None:
        yield Problem("incomplete", row.name, "was not observed in the live model")
    elif row.loaded != row.trained:
        yield Problem("violated", row.name, "changed during training, though the result has the base's bytes")
    elif row.loaded != row.base.sha256:
        yield Problem("incomplete", row.name, "was loaded with other bytes than the base file has")


def _of_split(row: Row) -> Iterator[Problem]:
    for part in row.slices:
        if part.action != "freeze":
            continue
        rows = f"rows {part.rows[0]} to {part.rows[1]}"
        if part.base is None or part.result is None:
            yield Problem("incomplete", row.name, f"{rows} were not read")
        elif part.base != part.result:
            yield Problem("violated", row.name, f"{rows} differ between base and result, though frozen")


def _of_scheduled(row: Row) -> Iterator[Problem]:
    if not row.intervals:
        yield Problem("incomplete", row.name, "no interval of its freeze was observed")
    for span in row.intervals:
        if span.before != span.after:
            end = "the end" if span.to_step is None else f"step {span.to_step}"
            yield Problem("violated", row.name, f"changed between step {span.from_step} and {end}, though frozen")


def _of_result(row: Row) -> Iterator[Problem]:
    """What the file holds must be what the trainer says that it had at the end."""
    if row.result is not None and row.trained is not None and row.result.sha256 != row.trained:
        yield Problem("incomplete", row.name, "has other bytes in the result file than at the end of training")


def _difference(base: Reading, result: Reading) -> str:
    if base.dtype != result.dtype:
        return f"dtype {base.dtype} became {result.dtype}"
    if base.shape != result.shape:
        return f"shape {list(base.shape)} became {list(result.shape)}"
    return "other bytes"


def _strays(rows: Sequence[Row], result: Mapping[str, TensorReading]) -> Iterator[Problem]:
    """Stored tensors that no row speaks of; without them the roots would not be the files'."""
    for name in sorted(set(result) - {row.result.name for row in rows if row.result}):
        yield Problem("incomplete", name, "is in the result, but the trainer did not observe it")


def _violations(
    problems: Iterable[Problem], reported: Iterable[Mapping[str, Any]], seen: Iterable[Seen]
) -> tuple[dict[str, Any], ...]:
    """What the witness saw, and what only the files show; one entry per tensor."""
    first = {each.info.name: each.first_changed_step for each in seen}
    found: dict[str, dict[str, Any]] = {}
    for each in reported:
        fields = ("name", "last_good_step", "first_bad_step", "operation")
        found.setdefault(str(each.get("name")), {field: each.get(field) for field in fields})
    for problem in problems:
        if problem.verdict != "violated":
            continue
        step = first.get(problem.name)
        entry = {
            "name": problem.name,
            "last_good_step": step - 1 if step else None,
            "first_bad_step": step,
            "operation": None,
        }
        found.setdefault(problem.name, entry)
        found[problem.name]["reason"] = problem.message
    return tuple(found[name] for name in sorted(found))


def _verdict(
    rows: Sequence[Row], problems: Sequence[Problem], violations: Sequence[Mapping[str, Any]]
) -> tuple[str, str | None]:
    if violations:
        broken = [problem for problem in problems if problem.verdict == "violated"]
        return "violated", _summary(broken) or f"the witness saw {violations[0]['name']} change"
    if problems:
        return "incomplete", _summary(problems)
    if not any(row.role in ("frozen", "split", "scheduled") for row in rows):
        return "incomplete", "nothing is frozen, so there is nothing to prove"
    return "verified", None


def _summary(problems: Sequence[Problem]) -> str:
    return _listed([f"{problem.name} {problem.message}" for problem in problems])


def _listed(reasons: Sequence[str]) -> str:
    shown = "; ".join(reasons[:REASONS_SHOWN])
    more = len(reasons) - REASONS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _parameter(row: Row, judged: Judged, *, job_id: str, position: int, stats: dict[str, Any] | None) -> Parameter:
    stored = row.result or row.base
    info_dtype, info_shape = (stored.dtype, stored.shape) if stored else (row.dtype, row.shape)
    assert info_dtype is not None
    assert info_shape is not None
    shape = list(info_shape)
    elements = 1
    for size in shape:
        elements *= size
    return Parameter(
        job_id=job_id,
        position=position,
        name=row.name,
        base_name=row.base.name if row.base else None,
        result_name=row.result.name if row.result else None,
        kind=row.kind,
        role=row.role,
        rule=row.rule,
        mechanism=row.mechanism,
        dtype=info_dtype,
        shape=shape,
        elements=elements,
        nbytes=stored.nbytes if stored else 0,
        changed=None if row.base is None or row.result is None else row.changed,
        changed_elements=0 if row.base and row.result and not row.changed else (stats or {}).get("changed"),
        first_changed_step=judged.first_changed.get(row.name),
        base_sha256=row.base.sha256 if row.base else None,
        result_sha256=row.result.sha256 if row.result else None,
        stats=stats,
    )
