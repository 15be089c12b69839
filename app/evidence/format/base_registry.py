"""Base registries: signed lists of base models, each by its name and the root over the tensors of its files.

A registry is an in-toto Statement v1 in a DSSE envelope, like a job's statement. A subject's name is
`owner/name@commit`, its digest the root of the base. Anyone whose key a reader trusts can publish one.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.evidence.format import fields, tree
from app.evidence.format.digest import read_file
from app.evidence.format.envelope import PAYLOAD_TYPE, EnvelopeError, read_envelope, seal, signers_of
from app.evidence.format.fields import StatementError
from app.evidence.format.keys import KeyFileError, SigningKey, TrustedKey, by_id, iso, read_time
from app.evidence.format.modules import files_in, within
from app.evidence.format.statement import STATEMENT_TYPE
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.format.tensorfile import TensorFileError
from app.jsontypes import JsonDict

REGISTRY: Final = "urn:permafrost:base-registry:v1"
#: The name of the digest: a root over tensors, which no other tool is to take for that of a file.
ROOT: Final = "permafrostRoot"
CLOCK_SKEW: Final = timedelta(minutes=5)

_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)*@[\w.-]+", re.ASCII)
_ROOT: Final = re.compile(r"[0-9a-f]{64}")


class RegistryError(ValueError):
    """A registry that cannot be relied on, or that does not have a base."""


class BaseRegistry(NamedTuple):
    """A registry whose signature was verified: root by name."""

    bases: Mapping[str, str]
    issued_at: datetime
    keyids: tuple[str, ...]


def base_root(folder: Path) -> str:
    """The root over all tensors of the folder's .safetensors files, as a job's statement has it for its base.

    Those of the modules of a sentence-transformers model are among them, under the names of their folders.

    Raises RegistryError for a folder without any, for files that cannot be read, and for a tensor that is there twice.
    """
    names = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if not names:
        raise RegistryError(f"{folder}: no .safetensors file")
    names += [name for name in files_in(folder) if name.endswith(".safetensors")]
    try:
        readings = (within(read_file(folder / name, whole=False), name) for name in names)
        return tree.root(tensor for reading in readings for tensor in reading.tensors)
    except (TensorFileError, OSError, ValueError) as error:
        raise RegistryError(f"{folder}: {error}") from None


def build(bases: Mapping[str, str], *, issued_at: datetime, key: SigningKey) -> JsonDict:
    """The envelope of a registry with these roots by name. Raises RegistryError for a name or root of another form."""
    if not bases:
        raise RegistryError("a registry needs a base at least")
    for name, root in bases.items():
        _refuse_entry(name, root)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {ROOT: bases[name]}} for name in sorted(bases)],
        "predicateType": REGISTRY,
        "predicate": {"issuedAt": iso(issued_at), "scheme": tree.SCHEME},
    }
    return seal(json.dumps(statement, separators=(",", ":")).encode(), [key])


def read(raw: bytes, keys: Iterable[TrustedKey], *, now: datetime) -> BaseRegistry:
    """The registry in an envelope that one of the keys signed while it was valid. Raises RegistryError."""
    try:
        envelope = read_envelope(raw)
        if any(repeated_keys(envelope.document)) or envelope.payload_type != PAYLOAD_TYPE:
            raise RegistryError("the envelope has a key twice, or another payloadType than in-toto's")
        signers = signers_of(envelope, by_id(keys).values())
        if not signers:
            raise RegistryError("no signature by a trusted key")  # before anything of its content is looked at
        bases, issued_at = _content(read_json(envelope.payload))
    except (EnvelopeError, JsonError, StatementError, KeyFileError) as error:
        raise RegistryError(str(error)) from None

    refusals = [key.refusal(issued_at) for key in signers]
    if all(refusals):
        raise RegistryError("; ".join(refusal for refusal in refusals if refusal))
    if issued_at > now + CLOCK_SKEW:
        raise RegistryError(f"issued at {iso(issued_at)}, it is {iso(now)}")
    return BaseRegistry(bases, issued_at, tuple(key.keyid for key in signers))


def _content(statement: Any) -> tuple[dict[str, str], datetime]:
    top = fields.as_object(statement, "registry")
    if any(repeated_keys(statement)):
        raise RegistryError("the registry has a key twice")
    if (top.get("_type"), top.get("predicateType")) != (STATEMENT_TYPE, REGISTRY):
        raise RegistryError("a statement of another kind, no registry of bases")
    predicate = fields.as_object(fields.field_of(top, "predicate", "registry"), "predicate")
    if predicate.get("scheme") != tree.SCHEME:
        raise RegistryError("its roots are computed in another way than this version does")
    issued_at = read_time(predicate.get("issuedAt"))
    if issued_at is None:
        raise RegistryError("a registry without issuedAt")

    bases: dict[str, str] = {}
    for at, entry in enumerate(fields.as_list(top, "subject", "registry")):
        subject = fields.as_object(entry, f"subject[{at}]")
        name = fields.text(subject, "name", f"subject[{at}]")
        root = fields.text(
            fields.as_object(subject.get("digest"), f"subject[{at}].digest"), ROOT, f"subject[{at}].digest"
        )
        _refuse_entry(name, root)
        if name in bases:
            raise RegistryError(f"{name} is there twice")
        bases[name] = root
    return bases, issued_at


def _refuse_entry(name: str, root: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 300:
        raise RegistryError(f"{name!r} is not like owner/name@commit")
    if not _ROOT.fullmatch(root):
        raise RegistryError(f"{name}: a root has 64 hexadecimal digits")
