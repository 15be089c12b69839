"""Checks of the proof that a transparency log has the statement, for a reader who trusts the log's key."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from app.evidence.format.envelope import LOG_PROOF
from app.evidence.format.keys import KeyFileError, iso
from app.evidence.format.log_proof import Entry, LogProofError, SignedProof, read_proof, statement_entry
from app.evidence.format.note import ED25519, LogHead, NoteError, NoteKey, read_keys, time_of
from app.evidence.format.strict import JsonError, read_json
from app.evidence.verifier.context import CannotCheck, Check, CheckContext, Problem, Rejected


def keys_of(paths: Sequence[Path | str], *, kind: int = ED25519) -> tuple[NoteKey, ...]:
    """The keys of logs, or of witnesses, in files: one a line, or a key ring that lists them. Raises CannotCheck."""
    found = [key for path in map(Path, paths) for key in _keys_in(path)]
    if other := [key for key in found if key.kind != kind]:
        what = "witness" if kind == ED25519 else "log"
        raise CannotCheck(f"{other[0].name}: this is the key of a {what}")
    return tuple(dict.fromkeys(found))


def ring_keys(paths: Sequence[Path | str]) -> tuple[NoteKey, ...]:
    """The keys of logs that key rings among these files list; files of other forms have none."""
    rings = [path for path in map(Path, paths) if _begins(path).startswith(b"{")]
    return keys_of(rings)


def _keys_in(path: Path) -> tuple[NoteKey, ...]:
    try:
        raw = path.read_bytes()
        if raw.lstrip().startswith(b"{"):
            document: Any = read_json(raw)
            lines = document.get("log_keys", []) if isinstance(document, dict) else None
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise KeyFileError("its log_keys are no list of lines")
            return tuple(map(NoteKey.parse, lines))
        keys = read_keys(raw.decode())
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None
    except (NoteError, KeyFileError, JsonError, UnicodeDecodeError) as error:
        raise CannotCheck(f"{path} holds no keys of a log: {error}") from None
    if not keys:
        raise CannotCheck(f"{path} holds no keys of a log: it is empty")
    return keys


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()
    except OSError:
        return b""  # named by who reads it as a key


def read(context: CheckContext) -> bool:
    """Read the proof, if there is one and the reader trusts a log. Raises Rejected for garbage."""
    inputs = context.inputs
    text = context.envelope.document.get(LOG_PROOF)
    if not inputs.log_keys:
        if inputs.require_log:
            raise CannotCheck("--require-log needs a log's key: --log-key, or a key ring with log_keys as --key")
        return False
    if text is None:
        return inputs.require_log
    try:
        if not isinstance(text, str):
            raise LogProofError("it is no text")
        proof = read_proof(text)
        context.log = SignedProof(proof, LogHead.parse(proof.checkpoint.text))
    except (LogProofError, NoteError) as error:
        raise Rejected([Problem("log_readable", f"the log's proof cannot be read: {error}")]) from None
    return True


def entry_of(context: CheckContext) -> Entry:
    """What a log has of this statement."""
    recipe = context.recipe_envelope.payload if context.recipe_envelope is not None else None
    predicate = context.predicate
    return statement_entry(context.envelope.payload, recipe, job=predicate.job_id, attempt=predicate.attempt)


def _given(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement without a proof, where the reader requires one."""
    if context.log is None:
        yield Problem("log_proof_given", "no proof that a log has it, so it may have been hidden from others")


def _signed(context: CheckContext) -> Iterator[Problem]:
    """Rejects a checkpoint that no log of the reader's has signed under its own name."""
    if (log := context.log) is None:
        return
    try:
        signers = [key for key in context.inputs.log_keys if log.proof.checkpoint.by(key) is not None]
    except NoteError as error:
        yield Problem("log_signed", f"the log's checkpoint: {error}")
        return
    if all(key.name != log.state.origin for key in signers):
        yield Problem("log_signed", f"no log key that you trust signed the checkpoint of {log.state.origin!r}")


def _included(context: CheckContext) -> Iterator[Problem]:
    """Rejects a proof of another statement or recipe than these: it leads to another root than the signed one."""
    if (log := context.log) is None:
        return
    root = log.proof.root(entry_of(context).leaf, size=log.state.size)
    if root != log.state.root:
        found = root.hex() if root else "no root: it is no path in a log of this size"
        yield Problem(
            "log_included", "the proof is not of this statement and recipe", None, log.state.root.hex(), found
        )


def _witnessed(context: CheckContext) -> Iterator[Problem]:
    """Rejects a checkpoint that a witness of the reader's has not cosigned."""
    if (log := context.log) is None:
        return
    for key in context.inputs.log_witnesses:
        try:
            line = log.proof.checkpoint.by(key)
        except NoteError as error:
            yield Problem("log_witnessed", f"the log's checkpoint: {error}")
            continue
        at = time_of(line) if line else None
        if at is None or at > context.inputs.now:
            why = "has not cosigned the log's checkpoint" if line is None else "cosigned it in the future"
            yield Problem("log_witnessed", f"the witness {key.name!r} {why}")


def described(context: CheckContext) -> dict[str, Any] | None:
    """The place in the log, and who has seen the log, for the report."""
    if (log := context.log) is None:
        return None
    seen: dict[str, datetime | None] = {}
    for key in context.inputs.log_witnesses:
        try:
            line = log.proof.checkpoint.by(key)
        except NoteError:
            continue
        if line is not None:
            seen[key.name] = time_of(line)
    return {
        "origin": log.state.origin,
        "index": log.proof.index,
        "size": log.state.size,
        "root": log.state.root.hex(),
        "witnesses": {name: iso(at) for name, at in seen.items()},
    }


CHECKS: dict[str, Check] = {
    "log_proof_given": _given,
    "log_signed": _signed,
    "log_included": _included,
    "log_witnessed": _witnessed,
}
