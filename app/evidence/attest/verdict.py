"""Computes a job's verdict from four readings of every tensor. Pure functions.

The supervisor itself reads base and result. `loaded` and `trained` are reported by the trainer and count only where
they agree with the files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from app.errors import PolicyError
from app.evidence.attest.observations import ObservedTensor
from app.evidence.attest.rows import rows_of
from app.evidence.format.digest import TensorReading
from app.evidence.format.statement import Row, row_order
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.jsontypes import JsonDict

#: Of all reasons; the rows have the rest.
REASONS_SHOWN: Final = 3
NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TensorProblem:
    """Why a tensor is not verified. `violated`: it changed; `incomplete`: readings are missing or disagree."""

    verdict: str
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class JobVerdict:
    """The verdict with all rows. `violations` has one entry for each frozen tensor that changed."""

    rows: tuple[Row, ...]
    verdict: str  # "verified" | "violated" | "incomplete"
    reason: str | None
    violations: tuple[JsonDict, ...]
    first_changed: Mapping[str, int | None]


def judge(
    policy: Policy,
    observed: Sequence[ObservedTensor],
    *,
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
    reported: Sequence[Mapping[str, Any]] = (),
    kind: str = "full",
    made: Mapping[str, str] = NONE,
) -> JobVerdict:
    """The verdict on a job. `reported` are the witness's violations; `kind` is "full" or "adapter".

    `made` are digests of what loading made of stored tensors, by base name, which the supervisor had computed.
    """
    try:
        plan = resolve(policy, [tensor.info for tensor in observed])
    except (PolicyError, ValueError) as error:
        return JobVerdict(
            (), "incomplete", f"the policy does not fit the tensors that the trainer observed: {error}", (), {}
        )
    rows = tuple(sorted(rows_of(plan, observed, base, result, made=made), key=row_order))
    problems = [*_problems(rows, kind=kind), *_strays(rows, result)]
    violations = _violations(problems, reported, observed)
    verdict, reason = _verdict(rows, problems, violations)
    return JobVerdict(rows, verdict, reason, violations, {each.info.name: each.first_changed_step for each in observed})


def challenged(judged: JobVerdict, objections: Iterable[str]) -> JobVerdict:
    """The verdict after a verifier's objections: `verified` becomes `incomplete` with the objections as reason."""
    found = list(objections)
    if judged.verdict != "verified" or not found:
        return judged
    reason = f"a verifier would reject the result: {_listed(found)}"
    return replace(judged, verdict="incomplete", reason=reason)


def _problems(rows: Iterable[Row], *, kind: str) -> Iterator[TensorProblem]:
    for row in rows:
        if row.role == "frozen":
            yield from _of_frozen(row, kind=kind)
        elif row.role == "split":
            yield from _of_split(row)
        elif row.role == "scheduled":
            yield from _of_scheduled(row)
        elif row.role in ("new", "buffer") and row.mechanism and row.loaded != row.trained:
            yield TensorProblem("violated", row.name, "changed during training, though frozen")
        yield from _of_result(row)


def _of_frozen(row: Row, *, kind: str) -> Iterator[TensorProblem]:
    """Problems of a tensor whose four readings differ in bytes, dtype or shape."""
    assert row.base is not None  # it would be "new" otherwise
    if row.result is None and kind == "full":
        yield TensorProblem("violated", row.name, "is missing from the result, though frozen")
    elif row.result is not None and not row.base.same(row.result):
        yield TensorProblem("violated", row.name, f"differs between base and result: {row.base.difference(row.result)}")
    elif row.loaded is None or row.trained is None:
        yield TensorProblem("incomplete", row.name, "was not observed in the live model")
    elif row.loaded != row.trained:
        yield TensorProblem("violated", row.name, "changed during training, though the result has the base's bytes")
    elif row.made is not None and row.loaded != row.made:
        what = "decoding" if row.decoded else "quantising"
        yield TensorProblem("violated", row.name, f"was not what {what} the base gives, when that was done again")
    elif row.made is None and row.loaded != row.base.sha256:
        yield TensorProblem("incomplete", row.name, "was loaded with other bytes than the base file has")


def _of_split(row: Row) -> Iterator[TensorProblem]:
    for part in row.slices:
        if part.action != "freeze":
            continue
        rows = f"rows {part.rows[0]} to {part.rows[1]}"
        if part.base is None or part.result is None:
            yield TensorProblem("incomplete", row.name, f"{rows} were not read")
        elif part.base != part.result:
            yield TensorProblem("violated", row.name, f"{rows} differ between base and result, though frozen")


def _of_scheduled(row: Row) -> Iterator[TensorProblem]:
    if not row.intervals:
        yield TensorProblem("incomplete", row.name, "no interval of its freeze was observed")
    for span in row.intervals:
        if span.before != span.after:
            end = "the end" if span.to_step is None else f"step {span.to_step}"
            yield TensorProblem("violated", row.name, f"changed between step {span.from_step} and {end}, though frozen")


def _of_result(row: Row) -> Iterator[TensorProblem]:
    """Problem of a stored tensor that differs from the trainer's last reading."""
    if row.result is not None and row.trained is not None and row.result.sha256 != row.trained:
        yield TensorProblem("incomplete", row.name, "has other bytes in the result file than at the end of training")


def _strays(rows: Sequence[Row], result: Mapping[str, TensorReading]) -> Iterator[TensorProblem]:
    """Problems of stored tensors without a row: the roots would not be those of the files."""
    for name in sorted(set(result) - {row.result.name for row in rows if row.result}):
        yield TensorProblem("incomplete", name, "is in the result, but the trainer did not observe it")


def _violations(
    problems: Iterable[TensorProblem], reported: Iterable[Mapping[str, Any]], observed: Iterable[ObservedTensor]
) -> tuple[JsonDict, ...]:
    """The witness's violations and those that only the files show, one entry per tensor."""
    first = {
        name: violation.first_changed_step
        for violation in observed
        for name in (violation.info.name, *violation.info.aliases)
    }
    violations: dict[str, JsonDict] = {}
    for violation in reported:
        entry = {field: violation.get(field) for field in ("name", "last_good_step", "first_bad_step", "operation")}
        if violation.get("explanation"):  # why no operation is named
            entry["explanation"] = violation["explanation"]
        if violation.get("rank") is not None:  # whose copy or shard it was
            entry["rank"] = violation["rank"]
        violations.setdefault(str(violation.get("name")), entry)
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
        violations.setdefault(problem.name, entry)
        violations[problem.name]["reason"] = problem.message
    return tuple(violations[name] for name in sorted(violations))


def _verdict(
    rows: Sequence[Row], problems: Sequence[TensorProblem], violations: Sequence[Mapping[str, Any]]
) -> tuple[str, str | None]:
    if violations:
        broken = [problem for problem in problems if problem.verdict == "violated"]
        return "violated", _summary(broken) or f"the witness saw {violations[0]['name']} change"
    if problems:
        return "incomplete", _summary(problems)
    if not any(row.role in ("frozen", "split", "scheduled") for row in rows):
        return "incomplete", "nothing is frozen, so there is nothing to prove"
    return "verified", None


def _summary(problems: Sequence[TensorProblem]) -> str:
    return _listed([f"{problem.name} {problem.message}" for problem in problems])


def _listed(reasons: Sequence[str]) -> str:
    shown = "; ".join(reasons[:REASONS_SHOWN])
    more = len(reasons) - REASONS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown
