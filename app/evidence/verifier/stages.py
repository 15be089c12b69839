"""The stages of a verification: what each reads, and its checks. A stage that finds a problem is the last one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from app.errors import PolicyError
from app.evidence.format.envelope import EnvelopeError, envelope_inside, read_envelope, signers_of
from app.evidence.format.fields import StatementError
from app.evidence.format.keys import by_id
from app.evidence.format.parse import read
from app.evidence.format.recipe import BUILD_TYPE, MEMBER
from app.evidence.format.recipe_reading import read as read_recipe
from app.evidence.format.recipe_reading import version_of
from app.evidence.format.strict import JsonError, read_json
from app.evidence.verifier import (
    check_adapters,
    check_chain,
    check_class,
    check_configuration,
    check_envelope,
    check_files,
    check_frozen,
    check_loading,
    check_log,
    check_names,
    check_places,
    check_policy,
    check_quantised,
    check_recipe,
    check_statement,
    check_timestamp,
    read_files,
)
from app.evidence.verifier.check_policy import plan_of
from app.evidence.verifier.context import Check, CheckContext, Inputs, Problem, Rejected

Checks = Mapping[str, Mapping[str, Check]]

STAGES: dict[str, dict[str, Check]] = {
    "envelope": check_envelope.ENVELOPE_CHECKS,
    "statement": check_envelope.STATEMENT_CHECKS,
    "timestamp": check_timestamp.CHECKS,
    "predicate": {
        **check_statement.CHECKS,
        **check_policy.CHECKS,
        **check_frozen.CHECKS,
        **check_names.CHECKS,
    },
    "recipe_envelope": check_recipe.ENVELOPE_CHECKS,
    "recipe": {**check_recipe.CHECKS, **check_timestamp.RECIPE_CHECKS},
    "log": check_log.CHECKS,
    "chain": check_chain.CHECKS,
    "base": check_files.BASE_CHECKS,
    "result": {
        **check_files.RESULT_CHECKS,
        **check_loading.CHECKS,
        **check_configuration.CHECKS,
        **check_class.CHECKS,
        **check_quantised.CHECKS,
        **check_places.CHECKS,
        **check_adapters.CHECKS,
    },
}


def without(*names: str) -> Checks:
    """The stages without the checks of these names."""
    return {
        stage: {name: check for name, check in checks.items() if name not in names} for stage, checks in STAGES.items()
    }


def examine(context: CheckContext, raw: bytes, checks: Checks, *, stages: Sequence[str] = tuple(STAGES)) -> None:
    """Run the stages in order. Raises Rejected with all problems of the first stage that has any."""
    for stage in stages:
        try:
            ready = _PREPARATIONS[stage](context, raw, checks)
        except (EnvelopeError, StatementError, JsonError) as error:
            raise Rejected([Problem("readable", str(error))]) from None
        if ready and (problems := [problem for check in checks[stage].values() for problem in check(context)]):
            raise Rejected(problems)


def _read_envelope(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    context.envelope_read = read_envelope(raw)
    context.signers = tuple(signers_of(context.envelope, by_id(context.inputs.keys).values()))
    return True


def _read_statement(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    context.document = read_json(context.envelope.payload)
    context.statement_read = read(context.document)
    return True


def _read_timestamp(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    return check_timestamp.read(context)


def _resolve_policy(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    context.document = None  # its checks are done, and it is larger than all that was read from it
    with suppress(PolicyError):  # the check `policy_fits` reports it
        context.plan = plan_of(context.predicate.rows, dict(context.predicate.policy))
    return True


def _read_recipe_envelope(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    found = context.recipe_envelope = envelope_inside(context.envelope, MEMBER)
    if found is not None:
        context.recipe_signers = tuple(signers_of(found, by_id(context.inputs.keys).values()))
        check_timestamp.read_recipes(context)
    return True


def _read_recipe(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    """Read a recipe of the version that this verifier knows; of any other the version alone."""
    if context.recipe_envelope is None:
        return False
    context.recipe_document = read_json(context.recipe_envelope.payload)
    context.recipe_version = version_of(context.recipe_document)
    if context.recipe_version == BUILD_TYPE:
        context.recipe = read_recipe(context.recipe_document)
    return True


def _read_log(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    return check_log.read(context)


def _read_chain(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    """Check the earlier statements without files, which the reader does not have."""
    for earlier in context.inputs.previous:
        before = CheckContext(Inputs(context.inputs.keys, context.inputs.now))
        examine(before, earlier, checks, stages=("envelope", "statement", "predicate"))
        context.chain.append(before)
    return True


def _read_base(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    if context.inputs.base is None:
        return False
    predicate = context.predicate
    context.base = read_files.read_base(
        context.inputs.base, predicate.base_files, predicate.rows, whole_up_to=context.inputs.whole_up_to
    )
    return True


def _read_result(context: CheckContext, raw: bytes, checks: Checks) -> bool:
    if context.inputs.result is None:
        return False
    predicate = context.predicate
    context.result = read_files.read_result(
        context.inputs.result,
        predicate.result_files,
        predicate.rows,
        metadata=predicate.metadata,
        base=context.base,
        whole_up_to=context.inputs.whole_up_to,
    )
    return True


# Reads the input of a stage; returns False when the reader gave none, and the stage is left out.
_PREPARATIONS: dict[str, Callable[[CheckContext, bytes, Checks], bool]] = {
    "envelope": _read_envelope,
    "statement": _read_statement,
    "timestamp": _read_timestamp,
    "predicate": _resolve_policy,
    "recipe_envelope": _read_recipe_envelope,
    "recipe": _read_recipe,
    "log": _read_log,
    "chain": _read_chain,
    "base": _read_base,
    "result": _read_result,
}
