"""Finds, before training, whether a verifier could follow the names of a model's tensors to its files."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.evidence.attest.observations import ObservedTensor
from app.evidence.attest.rows import rows_of
from app.evidence.format.digest import TensorReading
from app.evidence.format.statement import Predicate, Statement, Total, row_order
from app.evidence.verifier import check_configuration, check_names
from app.evidence.verifier.context import CheckContext, Holdings, Inputs
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
    context = CheckContext(Inputs((), predicate.issued_at), statement_read=statement, plan=plan)
    checks = [*check_names.CHECKS.values()]
    if configs is not None:
        context.base, context.result = map(_with_config, configs)
        checks += [check_configuration.CHECKS[name] for name in ("same_kind", "layers_loaded")]
    for check in checks:
        yield from (str(problem) for problem in check(context))


def _with_config(raw: bytes) -> Holdings:
    name = check_configuration.CONFIG
    return Holdings(Path(), frozenset({name}), frozenset(), frozenset(), documents={name: raw})
