"""Checks of the recipe beside a statement: who signed it, and that it is about the same result of the same job."""

from collections.abc import Iterator

from app.evidence.format.envelope import MAX_SIGNATURES, PAYLOAD_TYPE
from app.evidence.format.keys import iso
from app.evidence.format.recipe import BUILD_TYPE, PROVENANCE
from app.evidence.format.recipe_reading import unknown_fields
from app.evidence.format.statement import STATEMENT_TYPE
from app.evidence.format.strict import repeated_keys
from app.evidence.verifier.check_envelope import CLOCK_SKEW
from app.evidence.verifier.context import Check, CheckContext, Problem


def _recipe_required(context: CheckContext) -> Iterator[Problem]:
    """Rejects an attestation without a recipe, with `--require-recipe`."""
    if context.inputs.require_recipe and context.recipe_envelope is None:
        yield Problem("recipe_required", "the attestation has no recipe")


def _recipe_payload_type(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe whose payload is not an in-toto statement."""
    envelope = context.recipe_envelope
    if envelope is not None and envelope.payload_type != PAYLOAD_TYPE:
        reason = f"the recipe's payloadType is {envelope.payload_type!r}, not {PAYLOAD_TYPE!r}"
        yield Problem("recipe_payload_type", reason)


def _recipe_signature_count(context: CheckContext) -> Iterator[Problem]:
    """Rejects more signatures than a key rotation needs."""
    envelope = context.recipe_envelope
    if envelope is not None and len(envelope.signatures) > MAX_SIGNATURES:
        yield Problem("recipe_signature_count", f"the recipe has more than {MAX_SIGNATURES} signatures")


def _recipe_signature(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe without a signature by a key that counts for the statement beside it."""
    if context.recipe_envelope is None:
        return
    good = {key.keyid for key in context.signers if key.refusal(context.predicate.issued_at) is None}
    if good.isdisjoint(key.keyid for key in context.recipe_signers):
        yield Problem("recipe_signature", "the recipe is not signed by a key that signed the statement beside it")


def _recipe_keys_once(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe in which a JSON key appears twice."""
    for key in repeated_keys(context.recipe_document):
        yield Problem("recipe_keys_once", f"recipe: key {key!r} appears twice")


def _recipe_version(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe of a version that this verifier cannot read, with `--require-recipe`; else a note names it."""
    if context.inputs.require_recipe and context.recipe_envelope is not None and context.recipe is None:
        reason = f"the recipe is of version {context.recipe_version!r}; this verifier reads {BUILD_TYPE!r}"
        yield Problem("recipe_version", reason)


def _recipe_type(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement of another type in the recipe's place."""
    document = context.recipe_document
    if isinstance(document, dict):
        found = (document.get("_type"), document.get("predicateType"))
        if found != (STATEMENT_TYPE, PROVENANCE):
            yield Problem("recipe_type", f"the recipe's types are {found}, not {(STATEMENT_TYPE, PROVENANCE)}")


def _recipe_fields(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe with a field that its version does not have."""
    if context.recipe is not None:
        for where in unknown_fields(context.recipe_document):
            yield Problem("recipe_fields", f"recipe: unknown field {where!r}")


def _recipe_subjects(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe of other files than the result's, or that names one twice."""
    if context.recipe is None:
        return
    files = sorted((file.name, file.sha256) for file in context.predicate.result_files)
    if sorted(context.recipe.subjects) != files:
        found = sorted(set(context.recipe.subjects) ^ set(files)) or [("a file twice", "")]
        yield Problem("recipe_subjects", "the recipe's subjects are not the statement's", found[0][0])


def _recipe_job(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe of another job, attempt or nonce than the statement's."""
    recipe, predicate = context.recipe, context.predicate
    if recipe is None:
        return
    found = (recipe.job_id, recipe.attempt, recipe.nonce)
    stated = (predicate.job_id, predicate.attempt, predicate.nonce)
    if found != stated:
        yield Problem("recipe_job", "the recipe is about another job", None, str(stated), str(found))


def _recipe_base(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe that starts from another base than the statement's."""
    if context.recipe is not None and context.recipe.observed.base_root != context.statement.base.root:
        stated, found = context.statement.base.root, context.recipe.observed.base_root
        yield Problem("recipe_base", "the recipe starts from another base", None, stated, found)


def _recipe_policy(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe with another policy than the statement's."""
    if context.recipe is not None and context.recipe.observed.policy_digest != context.predicate.policy_digest:
        stated, found = context.predicate.policy_digest, context.recipe.observed.policy_digest
        yield Problem("recipe_policy", "the recipe has another policy", None, stated, found)


def _recipe_dates(context: CheckContext) -> Iterator[Problem]:
    """Rejects a run that ended before it began, or after the statement about its result was issued."""
    if context.recipe is None:
        return
    started, finished = context.recipe.observed.started_at, context.recipe.observed.finished_at
    if not started <= finished <= context.predicate.issued_at + CLOCK_SKEW:
        issued = iso(context.predicate.issued_at)
        reason = f"a run from {iso(started)} to {iso(finished)}, and a statement of {issued}"
        yield Problem("recipe_dates", reason)


def _recipe_required_keys(context: CheckContext) -> Iterator[Problem]:
    """Rejects a recipe that a key of `--require-key` did not sign."""
    signed = {key.keyid for key in context.recipe_signers}
    for key in context.inputs.required_keys if context.recipe_envelope is not None else ():
        if key.keyid not in signed:
            reason = f"the recipe is not signed by the key {key.keyid}, which --require-key names"
            yield Problem("recipe_required_keys", reason)


ENVELOPE_CHECKS: dict[str, Check] = {
    "recipe_required": _recipe_required,
    "recipe_payload_type": _recipe_payload_type,
    "recipe_signature_count": _recipe_signature_count,
    "recipe_signature": _recipe_signature,
    "recipe_required_keys": _recipe_required_keys,
}

CHECKS: dict[str, Check] = {
    "recipe_keys_once": _recipe_keys_once,
    "recipe_version": _recipe_version,
    "recipe_type": _recipe_type,
    "recipe_fields": _recipe_fields,
    "recipe_subjects": _recipe_subjects,
    "recipe_job": _recipe_job,
    "recipe_base": _recipe_base,
    "recipe_policy": _recipe_policy,
    "recipe_dates": _recipe_dates,
}
