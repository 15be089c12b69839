"""Attacks beyond the reference's list: each was accepted once, or kept the verifier busy for ever."""

import json
import os
from pathlib import Path
from typing import Any

from app.evidence.format.keys import TrustedKey
from app.evidence.format.statement import FrozenInterval, Row
from tests.tamper.attacks import DAY, Options, attack, edit_entries, edit_header, parameters, resign_file
from tests.tamper.kit import (
    KEY,
    NOW,
    World,
    flipped,
    forged,
    fused_rows,
    fused_world,
    scheduled_rows,
    scheduled_world,
    sharded_world,
    tied_rows,
    tied_world,
)

# Files that a loader would take


@attack("41-attestation-under-the-name-of-a-configuration", only="nothing_extra")
def _(world: World) -> Options:
    """An envelope may have fields of others; a hard link to it makes them a configuration beside the model."""
    sealed = world.sign() | {"auto_map": {"AutoTokenizer": "elsewhere--code.Tokenizer"}}
    world.attestation = world.result / "attestation.json"
    world.publish(sealed)
    os.link(world.attestation, world.result / "tokenizer_config.json")


@attack("40-index-with-a-key-twice", only="index", world=sharded_world)
def _(world: World) -> Options:
    """One reader takes the first weight map, another one the second."""
    path = world.result / "model.safetensors.index.json"
    path.write_text('{"weight_map":{"head.w":"evil.safetensors"},' + path.read_text()[1:])
    world.sign()


@attack("19-pipe-in-place-of-a-file")
def _(world: World) -> Options:
    """Opening it would wait for somebody to write."""
    world.sign()
    (world.result / "model.safetensors").unlink()
    os.mkfifo(world.result / "model.safetensors")


@attack("21-link-to-a-device")
def _(world: World) -> Options:
    """Reading it would never end."""
    world.sign()
    (world.result / "config.json").unlink()
    (world.result / "config.json").symlink_to("/dev/zero")


# Work without end


def swollen(path: Path) -> None:
    """Half a terabyte of zeros, which takes no room."""
    os.truncate(path, 1 << 39)


@attack("39-weights-of-half-a-terabyte")
def _(world: World) -> Options:
    world.sign()
    swollen(world.result / "model.safetensors")


@attack("39-configuration-of-half-a-terabyte")
def _(world: World) -> Options:
    world.sign()
    swollen(world.result / "config.json")


@attack("40-index-of-half-a-terabyte", world=sharded_world)
def _(world: World) -> Options:
    world.sign()
    swollen(world.result / "model.safetensors.index.json")


@attack("11-a-shape-of-half-a-million-sizes")
def _(world: World) -> Options:
    """Their product has thirty million bits."""
    resign_file(world, edit_entries(lambda header: header["head.b"].update(shape=[1 << 62] * 250_000)))


@attack("12-a-name-of-a-million-dots")
def _(world: World) -> Options:
    """All the prefixes of it together have half a terabyte."""
    resign_file(world, edit_header(lambda text: text.replace('"head.b"', '"' + "." * 1_000_000 + '"')))


@attack("25-envelope-of-empty-lists")
def _(world: World) -> Options:
    """Each takes twenty times its bytes in memory, and nobody has signed them."""
    sealed = json.dumps(world.sign())
    world.publish('{"bundle":[' + "[]," * (1 << 17) + "[]]," + sealed[1:])


# Envelopes and keys


@attack("27-payload-with-bits-that-nobody-reads")
def _(world: World) -> Options:
    """The same bytes in another spelling of base64: a digest of the attestation would not be that of its claim."""
    sealed = world.sign(payload=lambda raw: raw + b" " * ((1 - len(raw)) % 3))
    body = sealed["payload"]
    assert body.endswith("==")
    world.publish({**sealed, "payload": body[:-3] + chr(ord(body[-3]) + 1) + "=="})


@attack("37-revoked-key-that-is-also-given-by-itself", only="key_validity")
def _(world: World) -> Options:
    """The reader gives the ring, which calls the key revoked, and the key's own file, which says nothing of it."""
    world.sign()
    return {"keys": (TrustedKey(KEY.public_pem, revoked_at=NOW), TrustedKey(KEY.public_pem))}


@attack("37-expired-key-that-another-ring-calls-valid", only="key_validity")
def _(world: World) -> Options:
    world.sign()
    told = (TrustedKey(KEY.public_pem, not_after=NOW + DAY), TrustedKey(KEY.public_pem, not_after=NOW - DAY))
    return {"keys": told}


@attack("37-backdated-under-a-key-that-is-told-of-twice", only="key_validity")
def _(world: World) -> Options:
    world.sign(world.predicate(issued_at=NOW - 2 * DAY))
    told = (TrustedKey(KEY.public_pem, not_before=NOW - DAY), TrustedKey(KEY.public_pem, not_before=NOW - 3 * DAY))
    return {"keys": told}


# Statements that contradict themselves


@attack("29-frozen-row-duplicated")
def _(world: World) -> Options:
    """Two tensors of one name have no root, and the report has to do without."""

    def twice(top: dict[str, Any]) -> None:
        rows = parameters(top)
        at = next(n for n, row in enumerate(rows) if row["role"] == "frozen")
        rows.insert(at, rows[at])

    world.sign(document=twice)


@attack("34-other-bytes-stored-than-trained", only="trained_is_stored")
def _(world: World) -> Options:
    """The service calls that evidence incomplete: nobody knows what happened between training and the file."""
    world.sign(world.predicate(rows=forged(world.rows(), "head.w", trained="ab" * 32)))


def ended_at(world: World, step: object) -> dict[str, Any]:
    return {**world.predicate().observed, "last_step": step}


@attack("34-freeze-that-lasted-to-the-last-step-and-did-not-hold", only="intervals", world=scheduled_world)
def _(world: World) -> Options:
    """The run ended within the freeze, so the result's bytes are those of the freeze."""
    world.sign(world.predicate(rows=scheduled_rows(world), observed=ended_at(world, 10)))


@attack("30-invented-layer-takes-the-place-of-the-last", only="unstored")
def _(world: World) -> Options:
    """The policy freezes the last layer. A buffer that no file holds makes one more, and the real last one moves."""
    last = {"id": "last", "action": "freeze", "select": {"layers": {"path": "bert.enc", "last": 1}}}
    first = {"id": "first", "action": "freeze", "select": {"name": "bert.enc.0.**"}}
    world.policy = {"rules": [first, last]}
    invented = Row(
        name="bert.enc.2.ids", kind="buffer", role="buffer", persistent=False, dtype="I64", shape=(8,), changed=False
    )
    world.unstored = (invented,)
    world.edit_result("bert.enc.1.w", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign()


@attack("30-invented-parameter-unfreezes-a-buffer", only="unstored")
def _(world: World) -> Options:
    """A buffer is pinned where all parameters of its module are frozen; one that nobody has trains."""
    world.policy = {"freeze": ["bert.enc.*.w", "bert.enc.*.b"]}
    invented = Row(name="bert.enc.1.x", role="buffer", persistent=False, dtype="F32", shape=(8,), changed=False)
    world.unstored = (invented,)
    world.edit_result("bert.enc.1.mean", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign()


# Rows that share a tensor


def copy_that_disagrees(field: str, value: Any) -> None:
    @attack(f"30-copy-of-a-tie-with-its-own-{field.replace('_', '-')}", only="aliases", world=tied_world)
    def _(world: World) -> Options:
        """A reader of the copy's row would believe something else of the one tensor that both are."""
        world.sign(world.predicate(rows=forged(tied_rows(world), "bert.dec.weight", **{field: value})))


for field, value in (
    ("role", "trainable"),
    ("rule", "another"),
    ("kind", "buffer"),
    ("module_types", ("Linear",)),
    ("intervals", (FrozenInterval(0, 10, "ab" * 32, "ab" * 32),)),
):
    copy_that_disagrees(field, value)


@attack("30-parts-that-disagree-about-their-tensor", only="parts", world=fused_world)
def _(world: World) -> Options:
    *rows, last = fused_rows(world)
    world.sign(world.predicate(rows=(*rows, last._replace(module_types=("Linear",)))))


@attack("30-parts-beyond-their-tensor", only="parts", world=fused_world)
def _(world: World) -> Options:
    world.sign(world.predicate(rows=fused_rows(world, second=(1 << 20, 1 << 21))))


@attack("30-dropped-tensor-that-no-base-has", only="roles")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=(*world.rows(), Row(name="zzz", role="dropped", changed=False))))
