"""`permafrost log`: whether a log goes on from checkpoints that the reader kept, and what it has of an attestation.

Needs the standard library and `cryptography` only. Exit status 0: it holds, 1: rejected, 2: could not check.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.evidence.format.envelope import LOG_PROOF, EnvelopeError, envelope_inside, read_envelope
from app.evidence.format.fields import StatementError
from app.evidence.format.log_proof import (
    Entry,
    LogProofError,
    read_entry,
    read_proof,
    statement_entry,
    subject_of_attempt,
)
from app.evidence.format.note import COSIGNATURE, MAX_NOTE, LogHead, Note, NoteError, NoteKey, read_note, signed_state
from app.evidence.format.parse import read
from app.evidence.format.recipe import MEMBER
from app.evidence.format.strict import JsonError, read_json
from app.evidence.format.tiles import TileError, Tree, fold, leaf_hash, node_hash, roots_of_consistency
from app.evidence.verifier.check_log import keys_of, ring_keys
from app.evidence.verifier.context import CannotCheck, Problem, Rejected, printable
from app.evidence.verifier.log_source import LogSource
from app.evidence.verifier.verify import CANNOT_CHECK, REJECTED, VERIFIED, read_attestation

#: Attempts of a job that are looked for: more than a worker makes of it.
ATTEMPTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that the reader kept, and where."""

    source: str
    head: LogHead


@dataclass(frozen=True, slots=True)
class Attested:
    """An attestation as a log has it: its entry, its place by its own proof, and the job and attempt that it is of."""

    entry: Entry
    place: int | None
    job: str
    attempt: int

    @property
    def other_attempts(self) -> dict[int, str]:
        """The subjects of the job's other attempts. A job has one result, by one of them."""
        others = (number for number in range(1, ATTEMPTS + 1) if number != self.attempt)
        return {number: subject_of_attempt(self.job, number) for number in others}


@dataclass(slots=True)
class LogAudit:
    """One look at a log. Problems are reasons to distrust it; `notes` say what was found."""

    source: LogSource
    keys: Sequence[NoteKey]
    note: Note
    head: LogHead
    tree: Tree
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    entries: dict[str, list[int]] = field(default_factory=dict)  # places by subject, of statements and bases
    leaves: dict[bytes, int] = field(default_factory=dict)

    def check_kept(self, kept: Sequence[Kept]) -> None:
        """Rejects a log that has shrunk or forked since a checkpoint that the reader kept."""
        for one in sorted(kept, key=lambda each: each.head.size):
            if one.head.origin != self.head.origin:
                reason = f"{one.source} is of the log {one.head.origin!r}, and this one is {self.head.origin!r}"
                self.problems.append(Problem("log_name", reason))
            elif one.head.size > self.head.size:
                reason = f"the log shrank: it had {one.head.size} entries in {one.source}, and has {self.head.size} now"
                self.problems.append(Problem("log_shrank", reason))
            elif forked := self._forked(one):
                self.problems.append(Problem("log_forked", forked))
            else:
                self.notes.append(f"goes on from {one.source}, which has {_count(one.head.size)}")

    def check_witnesses(self, witnesses: Sequence[NoteKey]) -> None:
        """Rejects a checkpoint that a witness of the reader's has not cosigned."""
        for key in witnesses:
            try:
                seen = self.note.by(key)
            except NoteError as error:
                self.problems.append(Problem("log_witnessed", str(error)))
                continue
            if seen is None:
                self.problems.append(Problem("log_witnessed", f"the witness {key.name!r} has not cosigned it"))

    def read_all(self) -> None:
        """Read every entry. Rejects entries that do not make the root, and two statements about one attempt."""
        root = _Root()
        places: dict[str, list[int]] = defaultdict(list)
        kinds: dict[str, str] = {}
        for place, raw in enumerate(self.source.entries(self.head.size)):
            leaf = leaf_hash(raw)
            root.add(leaf)
            self.leaves[leaf] = place
            if entry := read_entry(raw):
                places[entry.subject].append(place)
                kinds[entry.subject] = entry.kind
        self.entries = dict(places)
        if root.value() != self.head.root:
            reason = "its entries do not make the root that it signed"
            self.problems.append(Problem("log_entries", reason, None, self.head.root.hex(), root.value().hex()))
        for subject, found in self.entries.items():
            if len(found) > 1 and kinds[subject] == "statement":
                self.problems.append(Problem("log_second_statement", _twice(found)))
            elif len(found) > 1:
                self.notes.append(f"entries {_listed(found)} give several bases one name")

    def check_attestation(self, path: Path) -> None:
        """Rejects an attestation that the log does not have, and names further statements about its attempt."""
        mine = entry_of(read_attestation(path), path)
        entry, proof = mine.entry, mine.place
        place = self.leaves.get(entry.leaf)
        if place is None and proof is not None and not self.entries:
            place = proof if proof < self.head.size and self.tree.leaf(proof) == entry.leaf else None
        if place is None:
            reason = "the log does not have this statement and recipe"
            if proof is None and not self.entries:
                reason += ", or has it at a place that only reading all of it would show"
            self.problems.append(Problem("log_included", reason, str(path)))
            return
        self.notes.append(f"{path}: entry {place}")
        others = [each for each in self.entries.get(entry.subject, ()) if each != place]
        if others:
            reason = f"the log has other statements about the same job and attempt: {_listed(others)}"
            self.problems.append(Problem("log_second_statement", reason, str(path)))
        for attempt, subject in mine.other_attempts.items():
            if found := self.entries.get(subject):
                self.notes.append(
                    f"{path}: attempt {attempt} of the same job has a statement as well: {_listed(found)}"
                )

    def _forked(self, one: Kept) -> str | None:
        if one.head.size == self.head.size:
            same = one.head.root == self.head.root
            return (
                None
                if same
                else f"the log forked: it signed another root over the {_count(one.head.size)} of {one.source}"
            )
        if one.head.size == 0:
            return None
        path = self.tree.consistency(one.head.size)
        roots = roots_of_consistency(one.head.size, self.head.size, path, one.head.root)
        if roots == (one.head.root, self.head.root):
            return None
        return f"the log forked: its first {_count(one.head.size)} are not those of {one.source}"


class _Root:
    """The root over leaves, one after the other, with a hash of each full subtree."""

    def __init__(self) -> None:
        self._full: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        height, node = 0, leaf
        while self._full and self._full[-1][0] == height:
            node = fold([self._full.pop()[1], node])
            height += 1
        self._full.append((height, node))

    def value(self) -> bytes:
        nodes = [node for _, node in self._full]
        root = nodes.pop() if nodes else hashlib.sha256().digest()
        while nodes:
            root = node_hash(nodes.pop(), root)
        return root


def open_log(place: str, keys: Sequence[NoteKey]) -> LogAudit:
    """A log with its newest checkpoint, whose tiles make the signed root. Raises Rejected and CannotCheck."""
    source = LogSource(place)
    note, head = _signed(source.checkpoint(), keys, place)
    tree = source.tree(head.size)
    if (root := tree.root()) != head.root:
        reason = "its tiles do not make the root that it signed"
        raise Rejected([Problem("log_tiles", reason, None, head.root.hex(), root.hex())])
    return LogAudit(source, keys, note, head, tree)


def kept_checkpoints(paths: Iterable[Path], keys: Sequence[NoteKey]) -> Iterator[Kept]:
    """Checkpoints in files, and those in the proofs of attestations that have one. Raises Rejected and CannotCheck."""
    for path in paths:
        raw = read_attestation(path)
        if raw.lstrip().startswith(b"{"):
            text = _document(raw, path).document.get(LOG_PROOF)
            if text is None:
                continue
            try:
                raw = str(read_proof(text if isinstance(text, str) else "").checkpoint).encode()
            except LogProofError as error:
                raise Rejected([Problem("log_readable", str(error), str(path))]) from None
        yield Kept(str(path), _signed(raw[: MAX_NOTE + 1], keys, str(path))[1])


def entry_of(raw: bytes, path: Path) -> Attested:
    """What a log has of an attestation. Raises Rejected."""
    envelope = _document(raw, path)
    try:
        recipe = envelope_inside(envelope, MEMBER)
        predicate = read(read_json(envelope.payload)).predicate
        text = envelope.document.get(LOG_PROOF)
        place = read_proof(text).index if isinstance(text, str) else None
    except (EnvelopeError, JsonError, StatementError, LogProofError) as error:
        raise Rejected([Problem("readable", str(error), str(path))]) from None
    payload = recipe.payload if recipe is not None else None
    job, attempt = predicate.job_id, predicate.attempt
    return Attested(statement_entry(envelope.payload, payload, job=job, attempt=attempt), place, job, attempt)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `permafrost log` and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        keys = keys_of(options.log_key) or ring_keys(options.key)
        if not keys:
            raise CannotCheck("which log do you trust? --log-key names its public key, or --key a ring that lists it")
        audit = open_log(options.log, keys)
        lines, facts = _COMMANDS[options.command](audit, options)
    except Rejected as rejection:
        return _reject(options, rejection.problems)
    except TileError as error:
        return _reject(options, [Problem("log_tiles", str(error))])
    except (CannotCheck, OSError) as error:
        _say(options, [f"COULD NOT CHECK: {printable(str(error))}"], {"verdict": "unchecked", "reason": str(error)})
        return CANNOT_CHECK
    if audit.problems:
        return _reject(options, audit.problems, audit.notes)
    _say(options, lines, {"verdict": "verified", **facts})
    return VERIFIED


def _verify(audit: LogAudit, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    audit.check_kept(list(kept_checkpoints([*options.checkpoint, *options.attestation], audit.keys)))
    audit.check_witnesses(keys_of(options.log_witness, kind=COSIGNATURE))
    if not options.quick:
        audit.read_all()
    for path in options.attestation:
        audit.check_attestation(path)
    if options.save and not audit.problems:
        options.save.write_text(str(audit.note))
    facts = {"origin": audit.head.origin, "size": audit.head.size, "root": audit.head.root.hex(), "notes": audit.notes}
    first = (
        f"VERIFIED: the log {printable(audit.head.origin)} has {_count(audit.head.size)}, root {audit.head.root.hex()}"
    )
    return [first, *(f"  {printable(note)}" for note in audit.notes)], facts


def _list(audit: LogAudit, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The newest entries, each with the number of entries that have its subject."""
    audit.read_all()
    audit.problems = [each for each in audit.problems if each.check != "log_second_statement"]  # shown below
    rows = list(_rows(audit))[-options.limit :]
    lines = [_line(row) for row in rows]
    return lines or ["the log is empty"], {"entries": rows}


def _show(audit: LogAudit, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Every entry about the job of an attestation, in whatever attempt."""
    mine = entry_of(read_attestation(options.attestation), options.attestation)
    audit.read_all()
    audit.check_attestation(options.attestation)
    audit.problems = [each for each in audit.problems if each.check != "log_second_statement"]  # shown below
    attempts = {mine.entry.subject: mine.attempt} | {each: at for at, each in mine.other_attempts.items()}
    rows = [row | {"attempt": attempts[row["subject"]]} for row in _rows(audit) if row["subject"] in attempts]
    return [f"{_line(row)}  attempt {row['attempt']}" for row in rows], {"entries": rows}


_COMMANDS = {"verify": _verify, "list": _list, "show": _show}


def _rows(audit: LogAudit) -> Iterator[dict[str, Any]]:
    for place, raw in enumerate(audit.source.entries(audit.head.size)):
        entry = read_entry(raw)
        if entry is None:
            yield {"entry": place, "kind": "unknown", "subject": None, "same_subject": []}
            continue
        same = [each for each in audit.entries.get(entry.subject, ()) if each != place]
        yield {
            "entry": place,
            "kind": entry.kind,
            "subject": entry.subject,
            **dict(entry.digests),
            "same_subject": same,
        }


def _line(row: dict[str, Any]) -> str:
    digest = row.get("statement") or row.get("root") or ""
    same = row["same_subject"]
    about = {"statement": "the same job and attempt", "base": "the same name"}.get(row["kind"], "")
    return f"{row['entry']:>8}  {row['kind']:<9}  {digest}" + (f"  {about} as {_listed(same)}" if same else "")


def _signed(raw: bytes, keys: Sequence[NoteKey], where: str) -> tuple[Note, LogHead]:
    try:
        note = read_note(raw)
        return note, signed_state(note, keys)
    except NoteError as error:
        raise Rejected([Problem("log_signed", str(error), where)]) from None


def _document(raw: bytes, path: Path) -> Any:
    try:
        return read_envelope(raw)
    except EnvelopeError as error:
        raise Rejected([Problem("readable", str(error), str(path))]) from None


def _twice(places: Sequence[int]) -> str:
    return f"entries {_listed(places)} are several statements about one job and attempt"


def _listed(places: Sequence[int]) -> str:
    shown = ", ".join(map(str, places[:10]))
    return shown + (f" and {len(places) - 10} more" if len(places) > 10 else "")


def _count(entries: int) -> str:
    return f"{entries:,} {'entry' if entries == 1 else 'entries'}"


def _reject(options: argparse.Namespace, problems: Sequence[Problem], notes: Sequence[str] = ()) -> int:
    lines = ["REJECTED", *(f"  {each.check}: {each}" for each in problems), *(f"  note: {printable(n)}" for n in notes)]
    _say(
        options, lines, {"verdict": "rejected", "problems": [each._asdict() for each in problems], "notes": list(notes)}
    )
    return REJECTED


def _say(options: argparse.Namespace, lines: Sequence[str], document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=1) if options.json else "\n".join(lines), flush=True)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    server = os.environ.get("PERMAFROST_SERVER", "http://127.0.0.1:8000").rstrip("/").removesuffix("/v1")
    common.add_argument(
        "--log", default=f"{server}/v1/log", metavar="PLACE", help="URL or folder of the log; default: %(default)s"
    )
    common.add_argument(
        "--log-key", type=Path, action="append", default=[], metavar="FILE", help="public key of the log (a vkey)"
    )
    common.add_argument(
        "--key", type=Path, action="append", default=[], metavar="FILE", help="or a key ring that lists the log's key"
    )
    common.add_argument("--json", action="store_true", help="write the report as JSON")
    parser = argparse.ArgumentParser(
        prog="permafrost log",
        description="Check the transparency log of a service against what you kept of it.",
        epilog="Exit status: 0 it holds, 1 rejected, 2 could not check.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify = commands.add_parser(
        "verify", parents=[common], help="that it goes on from checkpoints, and has attestations"
    )
    verify.add_argument("checkpoint", type=Path, nargs="*", help="checkpoints of it that you kept")
    verify.add_argument(
        "--attestation", type=Path, action="append", default=[], metavar="FILE", help="that it has this one; repeatable"
    )
    verify.add_argument(
        "--log-witness", type=Path, action="append", default=[], metavar="FILE", help="that this witness cosigned it"
    )
    verify.add_argument("--save", type=Path, metavar="FILE", help="keep its checkpoint for the next time")
    verify.add_argument("--quick", action="store_true", help="do not read all entries; second statements stay unseen")
    listed = commands.add_parser("list", parents=[common], help="list the newest entries")
    listed.add_argument("--limit", type=int, default=100, help="how many; default: %(default)s")
    show = commands.add_parser("show", parents=[common], help="show every entry about an attestation's job and attempt")
    show.add_argument("attestation", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
