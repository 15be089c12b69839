"""`permafrost verify`: check a signed claim with the files at hand, believing no field that can be recomputed.

Standard library and `cryptography` only. Exit 0: verified, 1: rejected, 2: could not check.
"""

import argparse
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.errors import PolicyError
from app.evidence import claims, holdings
from app.evidence.case import CannotCheck, Case, Check, Inputs, Problem
from app.evidence.envelope import MAX_SIGNATURES, PAYLOAD_TYPE, EnvelopeError, read_envelope, signers_of
from app.evidence.holdings import Unreadable
from app.evidence.keys import KeyFileError, TrustedKey, iso, read_trusted
from app.evidence.rotation import introduced
from app.evidence.statement import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    StatementError,
    frozen_readings,
    read,
    strangers,
    total,
)
from app.evidence.strict import JsonError, read_json, repeated_keys
from app.freeze.policy import Policy

MAX_ATTESTATION = 1 << 30  # bytes; a statement takes about 600 per tensor
CLOCK_SKEW = timedelta(minutes=5)

VERIFIED, REJECTED, CANNOT_CHECK = 0, 1, 2
_SHOWN = 20  # problems, to people

LEVELS = {
    1: "the files are those that the signer described; that the base is the base is the signer's word",
    2: "the frozen tensors are those of the base with the pinned root, whatever the signer says",
    3: "the frozen tensors are those of the base files at hand, whatever the signer says",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `level` was reached: 1 the signer's word, 2 a pinned base, 3 base files; None if rejected."""

    verdict: str  # "verified" | "rejected"
    level: int | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        return self.verdict == "verified"

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "level": self.level,
            "meaning": LEVELS.get(self.level or 0),
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": list(self.warnings),
            **self.facts,
        }


def verify(raw: bytes, inputs: Inputs, *, checks: Mapping[str, Mapping[str, Check]] | None = None) -> Report:
    """Verify an envelope against the inputs. Raises CannotCheck when a given path cannot be read.

    A stage runs all of its checks, so that a report is complete; the stages after a failed one are not reached.
    """
    chosen = STAGES if checks is None else checks
    try:
        case = Case(inputs, read_envelope(raw))
        for stage, prepare in _PREPARATIONS.items():
            if prepare(case):
                problems = tuple(problem for check in chosen[stage].values() for problem in check(case))
                if problems:
                    return Report("rejected", None, problems, facts=_facts(case))
    except (EnvelopeError, StatementError, JsonError) as error:
        return Report("rejected", None, (Problem("readable", str(error)),))
    except Unreadable as error:
        return Report("rejected", None, tuple(error.problems), facts=_facts(case))
    level, why = _level(case)
    return Report("verified", level, (), (*why, *_warnings(case)), _facts(case))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        report = verify(_read_attestation(options.attestation), _inputs(options))
    except (CannotCheck, KeyFileError) as error:
        _say(options, {"verdict": "unchecked", "reason": str(error)}, f"COULD NOT CHECK: {error}")
        return CANNOT_CHECK
    if report.verified and report.level is not None and report.level < options.level:
        low = Problem("level", f"level {report.level} reached, {options.level} asked for")
        report = replace(report, verdict="rejected", level=None, problems=(low,))
    _say(options, report.to_json(), "\n".join(_lines(report)))
    return VERIFIED if report.verified else REJECTED


def _envelope_keys_once(case: Case) -> Iterator[Problem]:
    for key in repeated_keys(case.envelope.document):
        yield Problem("envelope_keys_once", f"envelope: key {key!r} appears twice")


def _payload_type(case: Case) -> Iterator[Problem]:
    if case.envelope.payload_type != PAYLOAD_TYPE:
        yield Problem("payload_type", f"payloadType is {case.envelope.payload_type!r}, not {PAYLOAD_TYPE!r}")


def _signature_count(case: Case) -> Iterator[Problem]:
    if len(case.envelope.signatures) > MAX_SIGNATURES:
        yield Problem("signature_count", f"more than {MAX_SIGNATURES} signatures")


def _trusted_signature(case: Case) -> Iterator[Problem]:
    if not case.signers:
        known = ", ".join(key.keyid[:16] for key in case.inputs.keys)
        yield Problem("trusted_signature", f"no signature by a trusted key ({known})")


def _payload_keys_once(case: Case) -> Iterator[Problem]:
    for key in repeated_keys(case.document):
        yield Problem("payload_keys_once", f"statement: key {key!r} appears twice")


def _known_fields(case: Case) -> Iterator[Problem]:
    for where in strangers(case.document):
        yield Problem("known_fields", f"statement: unknown field {where!r}")


def _statement_type(case: Case) -> Iterator[Problem]:
    if case.said.kind != STATEMENT_TYPE:
        yield Problem("statement_type", f"_type is {case.said.kind!r}, not {STATEMENT_TYPE!r}")


def _predicate_type(case: Case) -> Iterator[Problem]:
    if case.said.predicate_type != PREDICATE_TYPE:
        yield Problem("predicate_type", f"predicateType is {case.said.predicate_type!r}, not {PREDICATE_TYPE!r}")


def _key_validity(case: Case) -> Iterator[Problem]:
    refusals = [key.refusal(case.said.claim.issued_at) for key in case.signers]
    if refusals and all(refusals):
        yield from (Problem("key_validity", refusal) for refusal in refusals if refusal)


def _not_from_the_future(case: Case) -> Iterator[Problem]:
    issued = case.said.claim.issued_at
    if issued > case.inputs.now + CLOCK_SKEW:
        yield Problem("not_from_the_future", f"issued at {iso(issued)}, it is {iso(case.inputs.now)}")


def _subject_names(case: Case) -> Iterator[Problem]:
    files = [*case.said.claim.result_files, *case.said.claim.base_files]
    for name in {name for name, _ in case.said.subjects} | {file.name for file in files}:
        if not _is_plain(name):
            yield Problem("subject_names", "not a plain file name", name)


def _subjects_once(case: Case) -> Iterator[Problem]:
    for what, names in (
        ("subject", [name for name, _ in case.said.subjects]),
        ("result file", [file.name for file in case.said.claim.result_files]),
        ("base file", [file.name for file in case.said.claim.base_files]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield Problem("subjects_once", f"{what} named {count} times", name)


def _subjects_are_files(case: Case) -> Iterator[Problem]:
    """Subjects are what other in-toto tools match: the result's files by SHA-256, all of them and nothing else."""
    files = {file.name: {"sha256": file.sha256} for file in case.said.claim.result_files}
    subjects = {name: dict(digests) for name, digests in case.said.subjects}
    for name in sorted(files.keys() | subjects.keys()):
        if files.get(name) != subjects.get(name):
            reason = f"subject has digests {subjects.get(name)}, the result's file {files.get(name)}"
            yield Problem("subjects_are_files", reason, name)


def _job(case: Case) -> Iterator[Problem]:
    if case.inputs.job is not None and case.said.claim.job_id != case.inputs.job:
        yield Problem("job", "about another job", None, case.inputs.job, case.said.claim.job_id)


def _nonce(case: Case) -> Iterator[Problem]:
    if case.inputs.nonce is not None and case.said.claim.nonce != case.inputs.nonce:
        yield Problem("nonce", "another nonce", None, case.inputs.nonce, case.said.claim.nonce)


def _pinned_policy(case: Case) -> Iterator[Problem]:
    wanted = case.inputs.policy_digest
    if wanted is not None and case.said.claim.policy_digest != wanted:
        yield Problem("pinned_policy", "another policy", None, wanted, case.said.claim.policy_digest)


def _pinned_base(case: Case) -> Iterator[Problem]:
    if case.inputs.base_root is not None and case.said.base.root != case.inputs.base_root:
        yield Problem("pinned_base", "about another base", None, case.inputs.base_root, case.said.base.root)


STAGES: dict[str, dict[str, Check]] = {
    "envelope": {
        "envelope_keys_once": _envelope_keys_once,
        "payload_type": _payload_type,
        "signature_count": _signature_count,
        "trusted_signature": _trusted_signature,
    },
    "statement": {
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
        "pinned_base": _pinned_base,
    },
    "claims": claims.CHECKS,
    "base": holdings.BASE_CHECKS,
    "result": holdings.RESULT_CHECKS,
}


def _find_signers(case: Case) -> bool:
    case.signers = tuple(signers_of(case.envelope, case.inputs.keys))
    return True


def _read_statement(case: Case) -> bool:
    case.document = read_json(case.envelope.payload)
    case.statement = read(case.document)
    return True


def _resolve_policy(case: Case) -> bool:
    with suppress(PolicyError):  # the check `policy_fits` reports it
        case.plan = claims.plan_of(case.said.claim.rows, dict(case.said.claim.policy))
    return True


def _read_base(case: Case) -> bool:
    if case.inputs.base is None:
        return False
    claim = case.said.claim
    case.base = holdings.read_base(case.inputs.base, claim.base_files, claim.rows)
    return True


def _read_result(case: Case) -> bool:
    if case.inputs.result is None:
        return False
    claim = case.said.claim
    case.result = holdings.read_result(
        case.inputs.result, claim.result_files, claim.rows, metadata=claim.metadata, base=case.base
    )
    return True


# Makes ready what the checks of a stage look at; False when the reader gave nothing for it.
_PREPARATIONS: dict[str, Callable[[Case], bool]] = {
    "envelope": _find_signers,
    "statement": _read_statement,
    "claims": _resolve_policy,
    "base": _read_base,
    "result": _read_result,
}


def _is_plain(name: str) -> bool:
    """A name of a file in a folder, on any system."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f:]", name)


def _level(case: Case) -> tuple[int, list[str]]:
    """The level, and why it is not higher than one would think."""
    if case.base is not None:
        return 3, []
    if case.inputs.base_root is None:
        return 1, []
    split = [row.name for row in case.said.claim.rows if row.role == "split"]
    if split:
        return 1, [f"level 2 needs the base files for partly frozen tensors: {_some(split)}"]
    return 2, []


def _warnings(case: Case) -> Iterator[str]:
    """What is not wrong, but a reader should know."""
    rows = case.said.claim.rows
    kinds = {
        "in the base, not in the result": [row.name for row in rows if row.role == "dropped"],
        "frozen by the policy but not in the base, so nothing is claimed about": [
            row.name for row in rows if row.role == "new" and _frozen_by_policy(case, row.name)
        ],
        "buffers that moved": [row.name for row in rows if row.role == "buffer" and row.base and row.changed],
        "frozen for some steps only, which is the signer's word": [row.name for row in rows if row.role == "scheduled"],
    }
    yield from (f"{what}: {_some(names)}" for what, names in kinds.items() if names)
    if any("module_type" in rule.get("select", {}) for rule in case.said.claim.policy.get("rules", [])):
        yield "the policy selects by module type, and which tensor has which type is the signer's word"
    names = [file.name for file in case.said.claim.result_files]
    names += [reading.name for row in rows for reading in (row.base, row.result) if reading]
    yield from (f"names that some systems take for one: {_some(group)}" for group in look_alikes(names))


def _frozen_by_policy(case: Case, name: str) -> bool:
    return case.plan is not None and case.plan.decision(name).action == "freeze"


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in case or in Unicode normal form."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFKC", name).casefold(), set()).add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _facts(case: Case) -> dict[str, Any]:
    if case.statement is None:
        return {}
    claim = case.statement.claim
    frozen = total(frozen_readings(claim.rows))
    return {
        "job": claim.job_id,
        "attempt": claim.attempt,
        "nonce": claim.nonce,
        "issued_at": iso(claim.issued_at),
        "keyids": [key.keyid for key in case.signers],
        "policy_digest": claim.policy_digest,
        "base_root": case.statement.base.root,
        "result_root": case.statement.result.root,
        "frozen": {"tensors": frozen.count, "bytes": frozen.nbytes, "root": frozen.root},
        "roles": dict(Counter(row.role for row in claim.rows)),
    }


def _lines(report: Report) -> Iterator[str]:
    if report.verified:
        frozen = report.facts["frozen"]
        yield f"VERIFIED, level {report.level}: {LEVELS[report.level or 1]}"
        yield f"  {frozen['tensors']} tensors ({frozen['bytes']:,} bytes) are bit-identical to the base"
    else:
        yield "REJECTED"
        yield from (f"  {problem.check}: {problem}" for problem in report.problems[:_SHOWN])
        if len(report.problems) > _SHOWN:
            yield f"  and {len(report.problems) - _SHOWN} more; --json has them all"
    yield from (f"  note: {warning}" for warning in report.warnings)
    for name in ("job", "issued_at", "base_root", "result_root", "policy_digest"):
        if name in report.facts:
            yield f"  {name.replace('_', ' ')}: {report.facts[name]}"


def _say(options: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    print(json.dumps(document, indent=1) if options.json else text, file=sys.stdout)


def _read_attestation(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_ATTESTATION + 1)
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None
    if len(raw) > MAX_ATTESTATION:
        raise CannotCheck(f"{path}: more than {MAX_ATTESTATION} bytes")
    return raw


def _inputs(options: argparse.Namespace) -> Inputs:
    return Inputs(
        keys=_keys(options.key, options.ring),
        now=datetime.now(UTC),
        attestation=options.attestation,
        result=options.result,
        base=options.base,
        base_root=options.base_root,
        nonce=options.nonce,
        job=options.job,
        policy_digest=_policy(options.policy) if options.policy else None,
    )


def _keys(paths: Iterable[Path], ring: Path | None) -> tuple[TrustedKey, ...]:
    try:
        trusted = [key for path in paths for key in read_trusted(path)]
        return tuple(trusted) if ring is None else introduced(trusted, read_trusted(ring))
    except OSError as error:
        raise CannotCheck(f"{error.filename}: {error.strerror}") from None


def _policy(path: Path) -> str:
    try:
        return Policy.from_json(json.loads(path.read_text())).digest()
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None
    except (ValueError, PolicyError) as error:
        raise CannotCheck(f"{path} is not a freeze policy: {error}") from None


def _hex(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text.lower()):
        raise argparse.ArgumentTypeError("64 hexadecimal digits are needed")
    return text.lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="permafrost verify",
        description="Check a signed claim that frozen weights did not change by a bit.",
        epilog="Exit status: 0 verified, 1 rejected, 2 could not check.",
    )
    parser.add_argument("attestation", type=Path, help="the signed statement (a DSSE envelope in JSON)")
    parser.add_argument(
        "--key", type=Path, action="append", required=True, help="trusted public key (PEM) or ring of keys; repeatable"
    )
    parser.add_argument("--ring", type=Path, help="keys to trust as far as a trusted one introduced them")
    parser.add_argument("--result", type=Path, required=True, help="folder of the fine-tuned model")
    parser.add_argument("--base", type=Path, help="folder of the base model (level 3)")
    parser.add_argument("--base-root", type=_hex, metavar="HEX", help="the base's published root (level 2)")
    parser.add_argument("--policy", type=Path, help="the freeze policy that has to have been applied, as JSON")
    parser.add_argument("--job", help="the job that this has to be about")
    parser.add_argument("--nonce", help="the nonce that was sent with the job")
    parser.add_argument("--level", type=int, choices=(1, 2, 3), default=1, help="reject what reaches a lower level")
    parser.add_argument("--json", action="store_true", help="write a report for machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
