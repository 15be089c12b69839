"""Checks of a statement's frame: the envelope and its signatures, the kind of statement, whom and when it is about."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from app.evidence.format.envelope import MAX_SIGNATURES, PAYLOAD_TYPE
from app.evidence.format.keys import iso
from app.evidence.format.parse import strangers
from app.evidence.format.statement import PREDICATE_TYPE, STATEMENT_TYPE
from app.evidence.format.strict import repeated_keys
from app.evidence.verifier.context import Check, CheckContext, Problem

CLOCK_SKEW = timedelta(minutes=5)


def _envelope_keys_once(context: CheckContext) -> Iterator[Problem]:
    for key in repeated_keys(context.envelope.document):
        yield Problem("envelope_keys_once", f"envelope: key {key!r} appears twice")


def _payload_type(context: CheckContext) -> Iterator[Problem]:
    if context.envelope.payload_type != PAYLOAD_TYPE:
        yield Problem("payload_type", f"payloadType is {context.envelope.payload_type!r}, not {PAYLOAD_TYPE!r}")


def _signature_count(context: CheckContext) -> Iterator[Problem]:
    if len(context.envelope.signatures) > MAX_SIGNATURES:
        yield Problem("signature_count", f"more than {MAX_SIGNATURES} signatures")


def _trusted_signature(context: CheckContext) -> Iterator[Problem]:
    if not context.signers:
        known = ", ".join(key.keyid[:16] for key in context.inputs.keys)
        yield Problem("trusted_signature", f"no signature by a trusted key ({known})")


def _payload_keys_once(context: CheckContext) -> Iterator[Problem]:
    for key in repeated_keys(context.document):
        yield Problem("payload_keys_once", f"statement: key {key!r} appears twice")


def _known_fields(context: CheckContext) -> Iterator[Problem]:
    for where in strangers(context.document):
        yield Problem("known_fields", f"statement: unknown field {where!r}")


def _statement_type(context: CheckContext) -> Iterator[Problem]:
    if context.statement.kind != STATEMENT_TYPE:
        yield Problem("statement_type", f"_type is {context.statement.kind!r}, not {STATEMENT_TYPE!r}")


def _predicate_type(context: CheckContext) -> Iterator[Problem]:
    if context.statement.predicate_type != PREDICATE_TYPE:
        yield Problem(
            "predicate_type", f"predicateType is {context.statement.predicate_type!r}, not {PREDICATE_TYPE!r}"
        )


def _key_validity(context: CheckContext) -> Iterator[Problem]:
    refusals = [key.refusal(context.statement.predicate.issued_at) for key in context.signers]
    if refusals and all(refusals):
        yield from (Problem("key_validity", refusal) for refusal in refusals if refusal)


def _not_from_the_future(context: CheckContext) -> Iterator[Problem]:
    issued = context.statement.predicate.issued_at
    if issued > context.inputs.now + CLOCK_SKEW:
        yield Problem("not_from_the_future", f"issued at {iso(issued)}, it is {iso(context.inputs.now)}")


def _subject_names(context: CheckContext) -> Iterator[Problem]:
    files = [*context.statement.predicate.result_files, *context.statement.predicate.base_files]
    for name in {name for name, _ in context.statement.subjects} | {file.name for file in files}:
        if not _is_plain(name):
            yield Problem("subject_names", "not a plain file name", name)


def _subjects_once(context: CheckContext) -> Iterator[Problem]:
    for what, names in (
        ("subject", [name for name, _ in context.statement.subjects]),
        ("result file", [file.name for file in context.statement.predicate.result_files]),
        ("base file", [file.name for file in context.statement.predicate.base_files]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield Problem("subjects_once", f"{what} named {count} times", name)


def _subjects_are_files(context: CheckContext) -> Iterator[Problem]:
    """Subjects are what other in-toto tools match: the result's files by SHA-256, all of them and nothing else."""
    files = {file.name: {"sha256": file.sha256} for file in context.statement.predicate.result_files}
    subjects = {name: dict(digests) for name, digests in context.statement.subjects}
    for name in sorted(files.keys() | subjects.keys()):
        if files.get(name) != subjects.get(name):
            reason = f"subject has digests {subjects.get(name)}, the result's file {files.get(name)}"
            yield Problem("subjects_are_files", reason, name)


def _job(context: CheckContext) -> Iterator[Problem]:
    if context.inputs.job is not None and context.statement.predicate.job_id != context.inputs.job:
        yield Problem("job", "about another job", None, context.inputs.job, context.statement.predicate.job_id)


def _nonce(context: CheckContext) -> Iterator[Problem]:
    if context.inputs.nonce is not None and context.statement.predicate.nonce != context.inputs.nonce:
        yield Problem("nonce", "another nonce", None, context.inputs.nonce, context.statement.predicate.nonce)


def _pinned_policy(context: CheckContext) -> Iterator[Problem]:
    wanted = context.inputs.policy_digest
    if wanted is not None and context.statement.predicate.policy_digest != wanted:
        yield Problem("pinned_policy", "another policy", None, wanted, context.statement.predicate.policy_digest)


def _is_plain(name: str) -> bool:
    """A name of a file in a folder, on any system."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f:]", name)


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
    "not_from_the_future": _not_from_the_future,
    "subject_names": _subject_names,
    "subjects_once": _subjects_once,
    "subjects_are_files": _subjects_are_files,
    "job": _job,
    "nonce": _nonce,
    "pinned_policy": _pinned_policy,
}
