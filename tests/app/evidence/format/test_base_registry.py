"""Registries of bases: what is read is what was signed, and nothing else is taken."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.base_registry import REGISTRY, RegistryError, base_root, build, read
from app.evidence.format.envelope import seal
from app.evidence.format.keys import TrustedKey, generate
from app.jsontypes import JsonDict
from app.storage.blobs import Storage
from tests.tamper.kit import KEY, World, base_tensors, file_bytes
from worker.supervisor.bases import ingest

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TRUSTED = TrustedKey(KEY.public_pem)
BASES = {"a/b@0123": "ab" * 32, "c/d@main": "cd" * 32}


def registry() -> Any:
    return build(BASES, issued_at=NOW, key=KEY)


def test_a_registry_is_read_as_it_was_made() -> None:
    """Names, roots, date and signer."""
    held = read(json.dumps(registry()).encode(), [TRUSTED], now=NOW)
    assert (dict(held.bases), held.issued_at, held.keyids) == (BASES, NOW, (KEY.keyid,))


def test_a_root_is_the_one_that_evidence_has(tmp_path: Path) -> None:
    """Of one file, and of the same tensors in several files."""
    world = World(tmp_path)
    assert base_root(world.base) == world.pinned
    split = tmp_path / "split"
    split.mkdir()
    for at, (name, tensor) in enumerate(base_tensors().items()):
        (split / f"model-{at}.safetensors").write_bytes(file_bytes({name: tensor}))
    assert base_root(split) == world.pinned
    (split / "copy.safetensors").write_bytes(file_bytes({"emb.weight": base_tensors()["emb.weight"]}))
    with pytest.raises(RegistryError, match=r"emb\.weight"):
        base_root(split)
    with pytest.raises(RegistryError, match=r"no \.safetensors file"):
        base_root(tmp_path)


def test_the_root_of_a_model_in_modules_is_the_one_that_evidence_has(tmp_path: Path) -> None:
    """A sentence-transformers model has weights in folders of modules: the service registers them as well."""
    modules: list[JsonDict] = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_Dense").mkdir()
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        (tmp_path / name).write_bytes(file_bytes(base_tensors()))
    registered = ingest(tmp_path, Storage(f"file://{tmp_path}/store"))
    assert len(registered.tensors) == 2 * len(base_tensors())
    assert base_root(tmp_path) == registered.root


@pytest.mark.parametrize("bases", [{}, {"no-commit": "ab" * 32}, {"a b@1": "ab" * 32}, {"a/b@1": "AB" * 32}])
def test_what_is_no_base_is_not_signed(bases: dict[str, str]) -> None:
    """Nor an empty list."""
    with pytest.raises(RegistryError):
        build(bases, issued_at=NOW, key=KEY)


def resigned(change: Callable[[Any], None]) -> Any:
    """A registry whose statement was changed before it was signed with the trusted key."""
    statement = json.loads(base64.b64decode(registry()["payload"]))
    change(statement)
    return seal(json.dumps(statement).encode(), [KEY])


def changed(**fields: Any) -> Any:
    return registry() | fields


def flipped_root() -> Any:
    """A root that was changed after the signature."""
    payload = base64.b64decode(registry()["payload"]).replace(b"abab", b"abac", 1)
    return changed(payload=base64.b64encode(payload).decode())


#: Every way of tampering, and what the refusal says.
TAMPERED: dict[str, tuple[Callable[[], Any], str]] = {
    "another root": (flipped_root, "no signature by a trusted key"),
    "no signature": (lambda: changed(signatures=[]), "no signature by a trusted key"),
    "another key": (lambda: build(BASES, issued_at=NOW, key=generate()), "no signature by a trusted key"),
    "another type of payload": (lambda: changed(payloadType="text/plain"), "payloadType"),
    "another statement": (
        lambda: resigned(lambda made: made.update(predicateType="urn:permafrost:key-introduction:v1")),
        "no registry of bases",
    ),
    "a name twice": (lambda: resigned(lambda made: made["subject"].append(made["subject"][0])), "there twice"),
    "another scheme": (
        lambda: resigned(lambda made: made["predicate"].update(scheme={"leaf": "v2"})),
        "computed in another way",
    ),
    "no date": (lambda: resigned(lambda made: made["predicate"].pop("issuedAt")), "without issuedAt"),
    "no root": (lambda: resigned(lambda made: made["subject"][0].update(digest={"sha256": "ab" * 32})), "missing"),
    "a root of another form": (
        lambda: resigned(lambda made: made["subject"][0].update(digest={"permafrostRoot": "ab"})),
        "64 hexadecimal digits",
    ),
    "a name of another form": (lambda: resigned(lambda made: made["subject"][0].update(name="../x")), "not like"),
    "from the future": (lambda: build(BASES, issued_at=NOW + timedelta(hours=1), key=KEY), "issued at"),
    "no list": (lambda: resigned(lambda made: made.update(subject={})), "not a list"),
}


@pytest.mark.parametrize("attack", TAMPERED)
def test_a_registry_that_was_tampered_with_is_refused(attack: str) -> None:
    """By name, whoever signed it."""
    made, reason = TAMPERED[attack]
    with pytest.raises(RegistryError, match=reason):
        read(json.dumps(made()).encode(), [TRUSTED], now=NOW)


def test_a_key_twice_is_refused() -> None:
    """In the envelope as in the statement: readers would disagree on which counts."""
    raw = json.dumps(registry()).replace('"payloadType"', '"payloadType": "x", "payloadType"').encode()
    with pytest.raises(RegistryError, match="twice"):
        read(raw, [TRUSTED], now=NOW)
    payload = base64.b64decode(registry()["payload"]).replace(b'"_type"', b'"_type":"x","_type"')
    with pytest.raises(RegistryError, match="twice"):
        read(json.dumps(seal(payload, [KEY])).encode(), [TRUSTED], now=NOW)


def test_a_key_counts_while_it_is_valid() -> None:
    """Neither before, nor after, nor once it was revoked."""
    raw = json.dumps(registry()).encode()
    for refused in (
        replace(TRUSTED, not_before=NOW + timedelta(days=1)),
        replace(TRUSTED, not_after=NOW - timedelta(days=1)),
        replace(TRUSTED, revoked_at=NOW + timedelta(days=9)),
    ):
        with pytest.raises(RegistryError, match=KEY.keyid):
            read(raw, [refused], now=NOW)
    assert REGISTRY.startswith("urn:permafrost:")
    with pytest.raises(RegistryError):
        read(b"not JSON", [TRUSTED], now=NOW)
