"""Checks of the envelope and its signatures, and of the statement's type, date, subjects and job."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from app.evidence.format.envelope import MAX_SIGNATURES, PAYLOAD_TYPE
from app.evidence.format.keys import iso
from app.evidence.format.modules import is_module_file
from app.evidence.format.parse import strangers
from app.evidence.format.statement import PREDICATE_TYPE, STATEMENT_TYPE
from app.evidence.format.strict import repeated_keys
from app.evidence.format.templates import is_template_file
from app.evidence.verifier.context import Check, CheckContext, Problem

CLOCK_SKEW = timedelta(minutes=5)


def _envelope_keys_once(context: CheckContext) -> Iterator[Problem]:
    """Rejects an envelope in which a JSON key appears twice."""
    for key in repeated_keys(context.envelope.document):
        yield Problem("envelope_keys_once", f"envelope: key {key!r} appears twice")


def _payload_type(context: CheckContext) -> Iterator[Problem]:
    """Rejects an envelope whose payload is not an in-toto statement."""
    if context.envelope.payload_type != PAYLOAD_TYPE:
        yield Problem("payload_type", f"payloadType is {context.envelope.payload_type!r}, not {PAYLOAD_TYPE!r}")


def _signature_count(context: CheckContext) -> Iterator[Problem]:
    """Rejects more signatures than a key rotation needs."""
    if len(context.envelope.signatures) > MAX_SIGNATURES:
        yield Problem("signature_count", f"more than {MAX_SIGNATURES} signatures")


def _trusted_signature(context: CheckContext) -> Iterator[Problem]:
    """Rejects an envelope without a valid signature by a trusted key."""
    if not context.signers:
        known = ", ".join(key.keyid[:16] for key in context.inputs.keys)
        yield Problem("trusted_signature", f"no signature by a trusted key ({known})")


def _payload_keys_once(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement in which a JSON key appears twice."""
    for key in repeated_keys(context.document):
        yield Problem("payload_keys_once", f"statement: key {key!r} appears twice")


def _known_fields(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement with a field that this format does not have."""
    for where in strangers(context.document):
        yield Problem("known_fields", f"statement: unknown field {where!r}")


def _statement_type(context: CheckContext) -> Iterator[Problem]:
    """Rejects a `_type` other than in-toto Statement v1."""
    if context.statement.kind != STATEMENT_TYPE:
        yield Problem("statement_type", f"_type is {context.statement.kind!r}, not {STATEMENT_TYPE!r}")


def _predicate_type(context: CheckContext) -> Iterator[Problem]:
    """Rejects a predicate of another type than ours."""
    if context.statement.predicate_type != PREDICATE_TYPE:
        yield Problem(
            "predicate_type", f"predicateType is {context.statement.predicate_type!r}, not {PREDICATE_TYPE!r}"
        )


def _key_validity(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement if none of its signing keys was valid at its date. A revoked key is never valid."""
    refusals = [key.refusal(context.predicate.issued_at) for key in context.signers]
    if refusals and all(refusals):
        yield from (Problem("key_validity", refusal) for refusal in refusals if refusal)


def _required_keys(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement that a key of `--require-key` did not sign, or was not valid for at its date."""
    signed = {key.keyid: key for key in context.signers}
    for name in [key.keyid for key in context.inputs.required_keys]:
        if name not in signed:
            yield Problem("required_keys", f"not signed by the key {name}, which --require-key names")
        elif refusal := signed[name].refusal(context.predicate.issued_at):
            yield Problem("required_keys", refusal)


def _not_from_the_future(context: CheckContext) -> Iterator[Problem]:
    """Rejects a date that lies ahead of the reader's clock by more than CLOCK_SKEW."""
    issued = context.predicate.issued_at
    if issued > context.inputs.now + CLOCK_SKEW:
        yield Problem("not_from_the_future", f"issued at {iso(issued)}, it is {iso(context.inputs.now)}")


def _subject_names(context: CheckContext) -> Iterator[Problem]:
    """Rejects a file name that is no plain name: no path but a module's or template's, no drive letter."""
    files = [*context.predicate.result_files, *context.predicate.base_files]
    for name in {name for name, _ in context.statement.subjects} | {file.name for file in files}:
        if not (_is_plain(name) or is_module_file(name) or is_template_file(name)):
            yield Problem("subject_names", "not a plain file name", name)


def _subjects_once(context: CheckContext) -> Iterator[Problem]:
    """Rejects a file that is listed more than once."""
    for what, names in (
        ("subject", [name for name, _ in context.statement.subjects]),
        ("result file", [file.name for file in context.predicate.result_files]),
        ("base file", [file.name for file in context.predicate.base_files]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield Problem("subjects_once", f"{what} named {count} times", name)


def _subjects_are_files(context: CheckContext) -> Iterator[Problem]:
    """Rejects subjects that are not exactly the result's files by SHA-256, as other in-toto tools match them."""
    files = {file.name: {"sha256": file.sha256} for file in context.predicate.result_files}
    subjects = {name: dict(digests) for name, digests in context.statement.subjects}
    for name in sorted(files.keys() | subjects.keys()):
        if files.get(name) != subjects.get(name):
            reason = f"subject has digests {subjects.get(name)}, the result's file {files.get(name)}"
            yield Problem("subjects_are_files", reason, name)


def _job(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement about another job than `--job`."""
    if context.inputs.job is not None and context.predicate.job_id != context.inputs.job:
        yield Problem("job", "about another job", None, context.inputs.job, context.predicate.job_id)


def _nonce(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement with another nonce than `--nonce`."""
    if context.inputs.nonce is not None and context.predicate.nonce != context.inputs.nonce:
        yield Problem("nonce", "another nonce", None, context.inputs.nonce, context.predicate.nonce)


def _pinned_policy(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement with another policy than `--policy`."""
    wanted = context.inputs.policy_digest
    if wanted is not None and context.predicate.policy_digest != wanted:
        yield Problem("pinned_policy", "another policy", None, wanted, context.predicate.policy_digest)


def _is_plain(name: str) -> bool:
    """A name of a file inside a folder, on any operating system."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f:]|[. ]$", name)


ENVELOPE_CHECKS: dict[str, Check] = {
    "envelope_keys_once": _envelope_keys_once,
    "payload_type": _payload_type,
    "signature_count": _signature_count,
    "trusted_signature": _trusted_signature,
}

STATEMENT_CHECKS: dict[str, Check] = {
    "payload_keys_once": _payload_keys_once,
    "known_fields": _known_fields,
    "statement_type": _statement_type,
    "predicate_type": _predicate_type,
    "key_validity": _key_validity,
    "required_keys": _required_keys,
    "not_from_the_future": _not_from_the_future,
    "subject_names": _subject_names,
    "subjects_once": _subjects_once,
    "subjects_are_files": _subjects_are_files,
    "job": _job,
    "nonce": _nonce,
    "pinned_policy": _pinned_policy,
}
