"""Looks the base of a statement up in signed registries, so that level 2 needs neither base files nor a pinned root."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.evidence.format.base_registry import BaseRegistry, RegistryError, read
from app.evidence.format.envelope import EnvelopeError, read_envelope
from app.evidence.format.keys import TrustedKey, read_trusted
from app.evidence.format.strict import JsonError, read_json
from app.evidence.verifier.context import CannotCheck, Problem, Rejected, printable

MAX_REGISTRY: Final = 64 << 20  # bytes: some 400,000 bases


class RegisteredBase(NamedTuple):
    """A base that every given registry knows under this name, with this root."""

    name: str
    root: str
    registries: int

    def __str__(self) -> str:
        noun = "registry" if self.registries == 1 else "registries, which agree"
        return f"{self.name} has the root {self.root} by {self.registries} {noun}"


def registered_base(
    attestation: bytes, registries: Sequence[Path], *, keys: Sequence[Path], name: str | None = None
) -> RegisteredBase:
    """The base's root by all of the registries. `name` is `owner/name@commit`; default: the statement's origin.

    The statement is not verified here: the root has to be pinned for its verification, which compares it with what
    was signed. Raises CannotCheck for a file that cannot be read, and Rejected for a registry that does not hold: not
    signed by one of the keys, without the base, or with another root than the others.
    """
    trusted = [key for path in keys for key in read_trusted(path)]
    held = [(path, _registry(path, trusted)) for path in registries]
    wanted = name or _origin(attestation)
    roots = {path: _root_of(path, registry, wanted) for path, registry in held}

    first, *others = roots.items()
    for path, root in others:
        if root != first[1]:
            reason = f"{first[0].name} and {path.name} have different roots of {wanted}"
            raise Rejected([Problem("base_registry", reason, None, first[1], root)])
    return RegisteredBase(wanted, first[1], len(roots))


def _registry(path: Path, keys: Sequence[TrustedKey]) -> BaseRegistry:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_REGISTRY + 1)
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None
    if len(raw) > MAX_REGISTRY:
        raise CannotCheck(f"{path}: a registry has at most {MAX_REGISTRY} bytes")
    try:
        return read(raw, keys, now=datetime.now(UTC))
    except RegistryError as error:
        raise Rejected([Problem("base_registry", str(error), path.name)]) from None


def _root_of(path: Path, registry: BaseRegistry, name: str) -> str:
    if name in registry.bases:
        return registry.bases[name]
    import difflib  # only for a message: a verifier starts without it

    near = difflib.get_close_matches(name, registry.bases, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise Rejected([Problem("base_registry", f"has no base {printable(name)}{hint}", path.name)])


def _origin(attestation: bytes) -> str:
    """The repository and revision that the statement gives its base, as a name in a registry."""
    try:
        document: Any = read_json(read_envelope(attestation).payload)
        origin = document["predicate"]["base"]["origin"]
        return f"{origin['repository']}@{origin['revision']}"
    except (EnvelopeError, JsonError, KeyError, TypeError):
        reason = "the statement does not say which repository and revision its base is; name it with --base-name"
        raise Rejected([Problem("base_registry", reason)]) from None
