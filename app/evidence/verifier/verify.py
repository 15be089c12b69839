"""`permafrost verify`: checks a signed statement against files, and recomputes every field that can be recomputed.

Needs the standard library and `cryptography` only. Exit status 0: verified, 1: rejected, 2: could not check.
"""

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.errors import PolicyError
from app.evidence.format.envelope import PAYLOAD_TYPE, Envelope
from app.evidence.format.keys import KeyFileError, TrustedKey, read_trusted
from app.evidence.format.note import COSIGNATURE
from app.evidence.format.rotation import introduced
from app.evidence.format.strict import JsonObject
from app.evidence.verifier import check_log, check_timestamp, packed
from app.evidence.verifier.check_configuration import some
from app.evidence.verifier.check_policy import read_policy
from app.evidence.verifier.context import (
    WHOLE_UP_TO,
    CannotCheck,
    CheckContext,
    Holdings,
    Inputs,
    Problem,
    Rejected,
    printable,
)
from app.evidence.verifier.options import read_options
from app.evidence.verifier.registered_base import RegisteredBase, registered_base
from app.evidence.verifier.report import VerificationReport, facts, warnings
from app.evidence.verifier.stages import STAGES, Checks, examine

MAX_ATTESTATION = 128 << 20  # bytes: about 150,000 tensors, or 400,000 row ranges

VERIFIED, REJECTED, CANNOT_CHECK = 0, 1, 2


def verify(raw: bytes, inputs: Inputs, *, checks: Checks | None = None) -> VerificationReport:
    """Verify an envelope against the inputs. Raises CannotCheck when a given path cannot be read.

    A stage runs all of its checks, so that a report is complete; the stages after a failed one are not reached.
    """
    context = CheckContext(inputs)
    try:
        with _uncollected():
            examine(context, raw, STAGES if checks is None else checks)
    except Rejected as rejection:
        return VerificationReport("rejected", None, rejection.problems, facts=facts(context))
    level, why = _level(context)
    return VerificationReport("verified", level, (), (*why, *warnings(context)), facts(context))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: it goes through all that was read again and again, and there are no cycles."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def verify_files(
    attestation: Path | str,
    *,
    key: Path | str | Sequence[Path | str],
    result: Path | str,
    base: Path | str | None = None,
    base_root: str | None = None,
    ring: Path | str | None = None,
    previous: Sequence[Path | str] = (),
    policy: str | None = None,
    job: str | None = None,
    nonce: str | None = None,
    whole_up_to: float = WHOLE_UP_TO,
) -> VerificationReport:
    """Verify an attestation against files, as `permafrost verify` does.

    `key` names one or more files of trusted public keys (PEM, or a key ring), `result` the folder of the fine-tuned
    model, `base` that of its base model (level 3), `base_root` the base's published root in hexadecimal (level 2).
    What is given must hold: `policy` (a file's path, or JSON), `job`, `nonce`. `previous` are the attestations of a
    fine-tune's bases, newest first. Raises CannotCheck or KeyFileError when something given cannot be read.
    """
    inputs = Inputs(
        keys=trusted_keys([key] if isinstance(key, str | Path) else key, ring),
        now=datetime.now(UTC),
        attestation=Path(attestation),
        result=Path(result),
        base=Path(base) if base is not None else None,
        base_root=base_root.lower() if base_root else None,
        nonce=nonce,
        job=job,
        policy_digest=_policy(policy) if policy else None,
        whole_up_to=whole_up_to,
        previous=tuple(read_attestation(Path(path)) for path in previous),
    )
    return verify(read_attestation(Path(attestation)), inputs)


def examined(raw: bytes, inputs: Inputs, *, checks: Checks | None = None) -> CheckContext:
    """An attestation's statement and recipe, after all checks of them that need no files. Raises Rejected."""
    context = CheckContext(inputs)
    stages = ("envelope", "statement", "predicate", "recipe_envelope", "recipe")
    examine(context, raw, STAGES if checks is None else checks, stages=stages)
    return context


def objections(
    payload: bytes, *, base: Holdings | None = None, result: Holdings | None = None, now: datetime | None = None
) -> tuple[Problem, ...]:
    """Problems of a statement, and of the files that it is about, for a signer to look at before it signs.

    `base` and `result` are what the signer has read of the files; without them the statement alone is checked.
    """
    context = CheckContext(Inputs((), now or datetime.now(UTC)), Envelope(payload, PAYLOAD_TYPE, (), JsonObject()))
    context.base, context.result = base, result
    try:
        examine(context, b"", STAGES, stages=("statement", "predicate"))
    except Rejected as rejection:
        return rejection.problems
    held = [stage for stage, files in (("base", base), ("result", result)) if files is not None]
    return tuple(problem for stage in held for check in STAGES[stage].values() for problem in check(context))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `permafrost verify` and return its exit status."""
    options = read_options(argv)
    try:
        notes = _unpacked(options)
        registered = _registered(options)
        report = verify(read_attestation(options.attestation), _inputs(options, registered))
        notes += [str(registered)] if registered else []
        report = replace(report, warnings=(*notes, *report.warnings))
    except Rejected as rejection:
        report = VerificationReport("rejected", None, rejection.problems)
    except (CannotCheck, KeyFileError, OSError) as error:
        _say(options, {"verdict": "unchecked", "reason": str(error)}, f"COULD NOT CHECK: {printable(str(error))}")
        return CANNOT_CHECK
    if report.verified and report.level is not None and report.level < options.level:
        low = Problem("level", f"level {report.level} reached, {options.level} requested")
        report = replace(report, verdict="rejected", level=None, problems=(low,))
    _say(options, report.to_json(), "\n".join(report.lines()))
    return VERIFIED if report.verified else REJECTED


def _unpacked(options: argparse.Namespace) -> list[str]:
    """Fill in what a packed folder brings. Returns what a reader should know of it."""
    if not packed.is_packed(options.attestation):
        return []
    found = packed.unpack(options.attestation)
    options.attestation, options.result = found.attestation, options.result or found.result
    if options.key:
        return []
    options.key = [found.keys]
    return [packed.OWN_KEYS]


def _level(context: CheckContext) -> tuple[int, list[str]]:
    """The level reached, and notes on why it is not a higher one."""
    if context.base is not None:
        return 3, []
    if context.inputs.base_root is None:
        return 1, []
    split = [row.name for row in context.predicate.rows if row.role == "split"]
    if split:
        return 1, [f"level 2 needs the base files for partly frozen tensors: {some(split)}"]
    return 2, []


def _say(options: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    text = json.dumps(document, indent=1) if options.json else text
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # a name must not fail the report
    except BrokenPipeError:  # the reader closed the pipe; the exit status still counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_attestation(path: Path) -> bytes:
    """The bytes of an attestation, or of that in a packed folder.

    Raises CannotCheck for a file that cannot be read, or of more than 128 MB.
    """
    path = packed.attestation_in(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(MAX_ATTESTATION + 1) if size <= MAX_ATTESTATION else b""
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None
    if max(size, len(raw)) > MAX_ATTESTATION:
        raise CannotCheck(f"{path}: {max(size, len(raw))} bytes; an attestation has at most {MAX_ATTESTATION}")
    return raw


def trusted_keys(paths: Iterable[Path | str], ring: Path | str | None) -> tuple[TrustedKey, ...]:
    """The keys in these files, and those of a ring that they introduced. Raises CannotCheck."""
    try:
        trusted = [key for path in paths for key in read_trusted(Path(path))]
        return tuple(trusted) if ring is None else introduced(trusted, read_trusted(Path(ring)))
    except OSError as error:
        raise CannotCheck(f"{error.filename}: {error.strerror}") from None


def _policy(given: str) -> str:
    """Digest of the policy in a file (also written @file, as for `permafrost submit`) or in the JSON text itself."""
    try:
        raw = os.fsencode(given) if given.lstrip().startswith("{") else Path(given.removeprefix("@")).read_bytes()
        return read_policy(raw).digest()
    except OSError as error:
        raise CannotCheck(f"{error.filename}: {error.strerror}") from None
    except PolicyError as error:
        raise CannotCheck(f"{given} is not a freeze policy: {error}") from None


def _inputs(options: argparse.Namespace, registered: RegisteredBase | None) -> Inputs:
    """What the command line gives, as `verify` takes it."""
    return Inputs(
        keys=trusted_keys([*options.key, *options.require_key], options.ring),
        required_keys=trusted_keys(options.require_key, None),
        tsa_roots=check_timestamp.roots_of(options.tsa_roots),
        now=datetime.now(UTC),
        attestation=options.attestation,
        result=options.result,
        base=options.base,
        base_root=registered.root if registered else options.base_root,
        nonce=options.nonce,
        job=options.job,
        policy_digest=_policy(options.policy) if options.policy else None,
        whole_up_to=WHOLE_UP_TO if options.whole_up_to is None else options.whole_up_to,
        previous=tuple(read_attestation(path) for path in options.previous),
        require_recipe=options.require_recipe,
        log_keys=check_log.keys_of(options.log_key) or check_log.ring_keys(options.key),
        log_witnesses=check_log.keys_of(options.log_witness, kind=COSIGNATURE),
        require_log=options.require_log or bool(options.log_witness),
    )


def _registered(options: argparse.Namespace) -> RegisteredBase | None:
    """The base by the registries that were given. A pinned root beside them has to be theirs."""
    if not options.base_registry:
        return None
    if not options.registry_key:
        raise CannotCheck("--base-registry needs the key that you trust to sign it (--registry-key)")
    attestation = read_attestation((options.attestation, *options.previous)[-1])  # about the first base of a chain
    found = registered_base(attestation, options.base_registry, keys=options.registry_key, name=options.base_name)
    if options.base_root not in (None, found.root):
        reason = f"another root of {found.name} than --base-root"
        raise Rejected([Problem("base_registry", reason, None, options.base_root, found.root)])
    return found


if __name__ == "__main__":
    sys.exit(main())
