"""Finds, before training, what a verifier would reject whatever training does: names of tensors, and configurations."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.evidence.attest.observations import ObservedTensor
from app.evidence.attest.rows import rows_of
from app.evidence.format.digest import TensorReading
from app.evidence.format.statement import Predicate, Statement, Total, row_order
from app.evidence.verifier import check_configuration, check_names, check_places, check_quantised
from app.evidence.verifier.context import CheckContext, Holdings, Inputs
from app.evidence.verifier.read_files import is_configuration
from app.freeze.plan import FreezePlan


def unfollowed(
    plan: FreezePlan,
    observed: Sequence[ObservedTensor],
    *,
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
    kind: str,
    configs: tuple[bytes, bytes] | None = None,
) -> Iterator[str]:
    """What a verifier would reject about the names in a statement on this job, were it made now.

    `result` are the tensors as they would be saved, and `kind` is "full" or "adapter". `configs` are the `config.json`
    of the base and of the result.
    """
    context = _context(plan, observed, base, result, kind)
    checks = [*check_names.CHECKS.values()]
    if configs is not None:
        context.base, context.result = (_with({check_configuration.CONFIG: raw}) for raw in configs)
        checks += [check_configuration.CHECKS[name] for name in ("same_kind", "layers_loaded")]
        checks += check_places.CHECKS.values()
    for check in checks:
        yield from (str(problem) for problem in check(context))


def rejected(
    plan: FreezePlan,
    observed: Sequence[ObservedTensor],
    *,
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
    kind: str,
    folders: tuple[Path, Path],
) -> Iterator[str]:
    """What a verifier would reject about the configurations of a result, were its statement made now.

    `folders` have those of the base and of the result.
    """
    context = _context(plan, observed, base, result, kind)
    context.base, context.result = (_with(_documents(folder)) for folder in folders)
    for check in (*check_configuration.CHECKS.values(), *check_quantised.CHECKS.values()):
        yield from (str(problem) for problem in check(context))


def _context(
    plan: FreezePlan,
    observed: Sequence[ObservedTensor],
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
    kind: str,
) -> CheckContext:
    rows = tuple(sorted(rows_of(plan, observed, base, result), key=row_order))
    predicate = Predicate(
        job_id="",
        attempt=1,
        nonce=None,
        issued_at=datetime.now(UTC),
        policy=plan.policy.to_json(),
        policy_digest=plan.policy.digest(),
        base_files=(),
        result_files=(),
        rows=rows,
        observed={},
        result_kind=kind,
    )
    none = Total(0, 0, "")
    statement = Statement(predicate, (), "", "", {}, none, none, none)  # names have nothing to do with totals
    return CheckContext(Inputs((), predicate.issued_at), statement_read=statement, plan=plan)


def _with(documents: dict[str, bytes]) -> Holdings:
    return Holdings(Path(), frozenset(documents), documents=documents)


def _documents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*.json")) if is_configuration(path.name)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
