"""The report of a verification, as text and as JSON."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.evidence.format.envelope import LOG_PROOF, TIMESTAMP
from app.evidence.format.keys import iso
from app.evidence.format.statement import Reading, frozen_readings, total
from app.evidence.verifier.check_chain import frozen_throughout
from app.evidence.verifier.check_class import class_notes
from app.evidence.verifier.check_configuration import loading_notes, some
from app.evidence.verifier.check_files import base_notes
from app.evidence.verifier.check_log import described as log_described
from app.evidence.verifier.check_timestamp import described
from app.evidence.verifier.context import CheckContext, Problem, printable
from app.evidence.verifier.recipe_facts import recipe_facts, recipe_lines

LEVELS = {
    1: "the files are those that the signer described; that the base is the base is the signer's word",
    2: "the frozen tensors are those of the base with the pinned root, whatever the signer says",
    3: "the frozen tensors are those of the base files at hand, whatever the signer says",
}
_SHOWN = 20  # problems in the text report


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The outcome of a verification. `level`: 1 the signer's word, 2 a pinned base, 3 base files; None if rejected."""

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
            "problems": [problem._asdict() for problem in self.problems],
            "warnings": list(self.warnings),
            **self.facts,
        }

    def lines(self) -> Iterator[str]:
        """The report as lines of text."""
        if self.verified:
            frozen = self.facts["frozen"]
            base = "base" if self.facts["base_root"] == self.facts["first_base_root"] else "first base of the chain"
            yield f"VERIFIED, level {self.level}: {LEVELS[self.level or 1]}"
            one = frozen["tensors"] == 1
            count = f"{frozen['tensors']} tensor{'' if one else 's'} ({frozen['bytes']:,} bytes)"
            yield f"  {count} {'is' if one else 'are'} bit-identical to the {base}"
        else:
            yield "REJECTED"
            yield from (f"  {problem.check}: {problem}" for problem in self.problems[:_SHOWN])
            if len(self.problems) > _SHOWN:
                yield f"  and {len(self.problems) - _SHOWN} more; --json has them all"
        yield from (f"  note: {printable(warning)}" for warning in self.warnings)
        if origin := self.facts.get("base_origin"):
            yield f"  base origin: {printable(', '.join(f'{key} {value}' for key, value in origin.items()))}"
        if "issued_at" in self.facts:
            yield f"  dated by {printable(_clock(self.facts.get('timestamp')))}"
        if stamped := self.facts.get("recipe_timestamp"):
            yield f"  recipe signed by {printable(stamped['time'])} by the clock of {printable(stamped['authority'])}"
        if log := self.facts.get("log"):
            yield f"  {printable(_in_the_log(log))}"
        for name in ("job", "issued_at", "base_root", "result_root", "policy_digest"):
            if name in self.facts:
                yield f"  {name.replace('_', ' ')}: {printable(self.facts[name])}"
        if recipe := self.facts.get("recipe"):
            yield from (f"  {printable(line)}" for line in recipe_lines(recipe))


def warnings(context: CheckContext) -> Iterator[str]:
    """Facts that do not reject the statement and that a reader should know."""
    rows = context.predicate.rows
    kinds = {
        "in the base, not in the result": [row.name for row in rows if row.role == "dropped"],
        "frozen by the policy but not in the base, so nothing is claimed about": [
            row.name for row in rows if row.role == "new" and _frozen_by_policy(context, row.name)
        ],
        "buffers that moved": [row.name for row in rows if row.role == "buffer" and row.base and row.changed],
        "frozen for some steps only, which is the signer's word": [row.name for row in rows if row.role == "scheduled"],
        "quantised for training, and what the quantised weights were is the signer's word": [
            row.name for row in rows if row.quantised
        ],
        "decoded for training, and what the decoded weights were is the signer's word": [
            row.name for row in rows if row.decoded
        ],
    }
    yield from (f"{what}: {some(names)}" for what, names in kinds.items() if names)
    if TIMESTAMP in context.envelope.document and context.timestamp is None:
        yield "the timestamp was not checked: --tsa-roots names the authorities that you trust"
    if context.inputs.tsa_roots and context.recipe_envelope is not None and context.recipe_timestamp is None:
        yield "the recipe has no timestamp of its own: when it was signed is the signer's word"
    if LOG_PROOF in context.envelope.document and context.log is None:
        yield "the log's proof was not checked: --log-key names the log that you trust"
    elif context.log is None and context.inputs.log_keys:
        yield "it has no proof that the log has it: --require-log rejects such a statement"
    if context.chain and context.inputs.base_root != context.chain[-1].statement.base.root:
        yield (
            "which base the chain begins with is the word of its first statement's signer: pin the first base's root "
            f"({context.chain[-1].statement.base.root})"
        )
    if context.recipe_envelope is not None and context.recipe is None:
        yield f"the recipe is of version {context.recipe_version!r}, which this verifier does not read"
    if any("module_type" in rule.get("select", {}) for rule in context.predicate.policy.get("rules", [])):
        yield "the policy selects by module type, and which tensor has which type is the signer's word"
    names = [file.name for file in context.predicate.result_files]
    digests = context.result.digests if context.result else {}
    if large := [name for name in names if name in digests and digests[name][0] is None]:
        yield (
            f"{some(large)}: header and tensors, which are all of it, are the signed ones; its SHA-256 as a whole, by "
            "which other tools may know the file, was not recomputed (--whole does)"
        )
    if context.result is not None:
        yield from loading_notes(context)
        yield from class_notes(context)
    yield from base_notes(context)
    names += [reading.name for row in rows for reading in (row.base, row.result) if reading]
    yield from (f"names that some systems take for one: {some(group)}" for group in look_alikes(names))


def _clock(timestamp: Mapping[str, str] | None) -> str:
    """Whose clock the date of a statement is by."""
    if timestamp is None:
        return "the signer's clock"
    return f"the signer's clock, and signed by {timestamp['time']} by that of {timestamp['authority']}"


def _in_the_log(log: Mapping[str, Any]) -> str:
    """Where a log has the statement, and which witnesses have seen that log."""
    seen = ", ".join(f"{name} at {at}" for name, at in log["witnesses"].items())
    place = f"in the log {log['origin']}: entry {log['index']} of {log['size']}"
    return f"{place}, witnessed by {seen}" if seen else place


def _root(readings: list[Reading]) -> str | None:
    try:
        return total(readings).root
    except ValueError:  # a rejected statement may name one tensor twice
        return None


def _frozen_by_policy(context: CheckContext, name: str) -> bool:
    return context.plan is not None and context.plan.decision(name).action == "freeze"


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in case or in Unicode normal form."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFKC", name).casefold(), set()).add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def facts(context: CheckContext) -> dict[str, Any]:
    if context.statement_read is None:
        return {}
    predicate = context.predicate
    frozen = frozen_readings(frozen_throughout(context))
    return {
        "job": predicate.job_id,
        "attempt": predicate.attempt,
        "nonce": predicate.nonce,
        "issued_at": iso(predicate.issued_at),
        "timestamp": described(context.timestamp),
        "recipe_timestamp": described(context.recipe_timestamp),
        "keyids": [key.keyid for key in context.signers],
        "policy_digest": predicate.policy_digest,
        "base_origin": dict(predicate.origin) if predicate.origin else None,
        "base_root": context.statement.base.root,
        "first_base_root": (context.chain[-1] if context.chain else context).statement.base.root,
        "result_root": context.statement.result.root,
        "frozen": {"tensors": len(frozen), "bytes": sum(one.nbytes for one in frozen), "root": _root(frozen)},
        "roles": dict(Counter(row.role for row in predicate.rows)),
        "log": log_described(context),
        **recipe_facts(context.recipe),
    }
