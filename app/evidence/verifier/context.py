"""The inputs of a verification, what was read from them, and the problems that were found."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from app.evidence.format.digest import FileReading, TensorReading
from app.evidence.format.envelope import Envelope
from app.evidence.format.keys import TrustedKey
from app.evidence.format.log_proof import SignedProof
from app.evidence.format.note import NoteKey
from app.evidence.format.recipe import Recipe
from app.evidence.format.statement import Predicate, Statement
from app.freeze.plan import FreezePlan

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from app.evidence.format.timestamp import Timestamp


class CannotCheck(Exception):
    """An input cannot be read, so the verification has no result."""


def printable(text: str | None) -> str:
    """The text with control characters escaped: names come from files and must not write the report."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


class Problem(NamedTuple):
    """One reason to reject. `subject` is a tensor or a file; `expected` and `actual` are digests that were compared."""

    check: str
    reason: str
    subject: str | None = None
    expected: str | None = None
    actual: str | None = None

    def __str__(self) -> str:
        text = printable(self.reason if self.subject is None else f"{self.subject}: {self.reason}")
        if self.expected is None and self.actual is None:
            return text
        return f"{text}\n    expected {printable(self.expected)}\n    found    {printable(self.actual)}"


class Rejected(Exception):
    """The statement is rejected, for `problems`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(str(self.problems[0]))


#: Bytes of a weight file above which its digest as a whole is left out, where those of its header and tensors say as
#: much. A file's digest has to go through it in order, on one core; tensors are hashed on all of them.
WHOLE_UP_TO: Final = 256e6


@dataclass(frozen=True, slots=True)
class Inputs:
    """The reader's inputs. An optional one that is given must hold."""

    keys: tuple[TrustedKey, ...]
    now: datetime
    attestation: Path | None = None
    result: Path | None = None
    base: Path | None = None
    base_root: str | None = None
    nonce: str | None = None
    job: str | None = None
    policy_digest: str | None = None
    whole_up_to: float = WHOLE_UP_TO
    required_keys: tuple[TrustedKey, ...] = ()  # each of them has to have signed
    tsa_roots: tuple["Certificate", ...] = ()  # of authorities, one of which has to have stamped the signature
    previous: tuple[bytes, ...] = ()  # envelopes about the base, its base, and so on
    require_recipe: bool = False
    log_keys: tuple[NoteKey, ...] = ()  # of logs, one of which signed the checkpoint of a proof, if there is one
    log_witnesses: tuple[NoteKey, ...] = ()  # each of them has to have cosigned it
    require_log: bool = False


@dataclass(slots=True)
class Holdings:
    """The contents of a folder: its entries by kind, and readings of the files that the statement names."""

    folder: Path
    files: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()  # folders, devices, pipes
    digests: dict[str, tuple[str | None, int]] = field(default_factory=dict)  # SHA-256 (None: not computed) and size
    weights: dict[str, FileReading] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)  # indexes and configurations, as digested

    def tensors(self) -> dict[str, TensorReading]:
        return {tensor.name: tensor for file in self.weights.values() for tensor in file.tensors}


@dataclass(slots=True)
class CheckContext:
    """State of one verification. Each stage adds what it has read, and later checks may use it."""

    inputs: Inputs
    envelope_read: Envelope | None = None
    signers: tuple[TrustedKey, ...] = ()
    statement_read: Statement | None = None
    document: object = None  # the payload as parsed
    plan: FreezePlan | None = None
    timestamp: "Timestamp | None" = None
    chain: list["CheckContext"] = field(default_factory=list)  # the statements before, nearest first
    base: Holdings | None = None
    result: Holdings | None = None
    recipe_envelope: Envelope | None = None
    recipe_signers: tuple[TrustedKey, ...] = ()
    recipe_timestamp: "Timestamp | None" = None
    recipe_document: object = None  # the recipe's payload as parsed
    recipe_version: str | None = None  # of a recipe, also of one that this version cannot read
    recipe: Recipe | None = None
    log: SignedProof | None = None

    @property
    def envelope(self) -> Envelope:
        if self.envelope_read is None:
            raise AssertionError("a check of the envelope ran before it was read")
        return self.envelope_read

    @property
    def statement(self) -> Statement:
        if self.statement_read is None:
            raise AssertionError("a check of the statement ran before it was read")
        return self.statement_read

    @property
    def predicate(self) -> Predicate:
        return self.statement.predicate


Check = Callable[[CheckContext], Iterator[Problem]]


def result_of(context: CheckContext) -> Holdings:
    """The result's files, once they have been read."""
    if context.result is None:
        raise AssertionError("a check of the result ran before it was read")
    return context.result


def base_of(context: CheckContext) -> Holdings:
    """The base's files, once they have been read."""
    if context.base is None:
        raise AssertionError("a check of the base ran before it was read")
    return context.base
