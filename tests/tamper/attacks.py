"""The attacks of the reference's list, by number: each tampers with an honest world and returns what the reader gives.

`levels` are those at which the attack has to be rejected. `only` names the one check that stands between the attack and
acceptance: the mutation test takes that check away and sees the attack pass. A signer who forges is `KEY` itself.
"""

import base64
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.evidence.format.digest import sha256_file
from app.evidence.format.envelope import pae
from app.evidence.format.keys import TrustedKey, generate
from app.evidence.format.statement import FileRef, Reading, Row, base_readings, total
from app.freeze.policy import Policy
from tests.tamper.kit import (
    KEY,
    NOW,
    Tensor,
    World,
    adapter_rows,
    adapter_world,
    base_tensors,
    chained_world,
    file_bytes,
    flipped,
    forged,
    fused_rows,
    fused_world,
    readings,
    result_tensors,
    row_of,
    scheduled_rows,
    scheduled_world,
    sharded_world,
    split_rows,
    split_world,
    tensor,
    tied_rows,
    tied_world,
    twice_frozen_rows,
    twice_frozen_world,
)

Options = dict[str, Any] | None


@dataclass(frozen=True)
class Attack:
    id: str
    run: Callable[[World], Options]
    levels: tuple[int, ...]
    only: str | None
    world: Callable[[Path], World]


ATTACKS: list[Attack] = []
ALL = (1, 2, 3)


def attack(
    name: str,
    *,
    only: str | None = None,
    levels: tuple[int, ...] = ALL,
    world: Callable[[Path], World] = World,
) -> Callable[[Callable[[World], Options]], Callable[[World], Options]]:
    def register(run: Callable[[World], Options]) -> Callable[[World], Options]:
        ATTACKS.append(Attack(name, run, levels, only, world))
        return run

    return register


# Files that are not the signed ones


@attack("01-bit-flipped-in-a-frozen-tensor")
def _(world: World) -> Options:
    world.sign()
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2], 17)))


@attack("01-bit-flipped-in-a-trained-tensor")
def _(world: World) -> Options:
    world.sign()
    world.edit_result("head.w", lambda t: (t[0], t[1], flipped(t[2], 3)))


@attack("01-bit-flipped-and-file-signed", only="tensors_as_claimed")
def _(world: World) -> Options:
    """The signer saw another trained tensor than it digested."""
    rows = world.rows()
    world.edit_result("head.w", lambda t: (t[0], t[1], flipped(t[2], 3)))
    world.sign(world.predicate(rows=rows))


@attack("02-truncated")
def _(world: World) -> Options:
    world.sign()
    path = world.result / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@attack("02-empty-file")
def _(world: World) -> Options:
    world.sign()
    (world.result / "model.safetensors").write_bytes(b"")


def resign_file(world: World, change: Callable[[bytes], bytes]) -> None:
    """Change the result's file and sign it as it now is, with the rows of the file as it was."""
    rows, path = world.rows(), world.result / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    world.sign(world.predicate(rows=rows))


def edit_header(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        text = change(data[8:end].decode()).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + data[end:]

    return edit


def edit_entries(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def edit(text: str) -> str:
        header = json.loads(text)
        change(header)
        return json.dumps(header, ensure_ascii=False)

    return edit_header(edit)


@attack("02-truncated-and-signed")
def _(world: World) -> Options:
    resign_file(world, lambda data: data[:-4])


@attack("03-bytes-after-the-last-tensor")
def _(world: World) -> Options:
    resign_file(world, lambda data: data + b"\0" * 8)


@attack("04-overlapping-offsets")
def _(world: World) -> Options:
    def overlap(header: dict[str, Any]) -> None:
        header["head.w"]["data_offsets"] = [offset - 4 for offset in header["head.w"]["data_offsets"]]

    resign_file(world, lambda data: edit_entries(overlap)(data)[:-4])


@attack("05-hole")
def _(world: World) -> Options:
    def shift(header: dict[str, Any]) -> None:
        for name, entry in header.items():
            if name != "__metadata__":
                entry["data_offsets"] = [offset + 8 for offset in entry["data_offsets"]]

    def hole(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        return edit_entries(shift)(data[:end] + b"\0" * 8 + data[end:])

    resign_file(world, hole)


@attack("06-duplicate-header-key")
def _(world: World) -> Options:
    again = '"head.b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    resign_file(world, edit_header(lambda text: "{" + again + text[1:]))


@attack("07-duplicate-key-through-an-escape")
def _(world: World) -> Options:
    again = '"he\\u0061d.b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    resign_file(world, edit_header(lambda text: "{" + again + text[1:]))


@attack("08-duplicate-metadata-key")
def _(world: World) -> Options:
    resign_file(world, edit_header(lambda text: text.replace('{"format":"pt"}', '{"format":"np","format":"pt"}')))


@attack("09-unknown-field")
def _(world: World) -> Options:
    resign_file(world, edit_entries(lambda header: header["head.b"].update(scale=2)))


@attack("09-unknown-dtype")
def _(world: World) -> Options:
    resign_file(world, edit_entries(lambda header: header["head.b"].update(dtype="F33")))


@attack("10-leading-space")
def _(world: World) -> Options:
    resign_file(world, edit_header(lambda text: " " + text))


@attack("10-header-length-of-2^63")
def _(world: World) -> Options:
    resign_file(world, lambda data: (1 << 63).to_bytes(8, "little") + data[8:])


@attack("11-shape-and-size-disagree")
def _(world: World) -> Options:
    resign_file(world, edit_entries(lambda header: header["head.b"].update(shape=[3])))


@attack("12-lone-surrogate-in-a-name")
def _(world: World) -> Options:
    resign_file(world, edit_header(lambda text: text.replace('"head.b"', '"head.\\ud800"')))


@attack("12-raw-surrogate-in-a-name")
def _(world: World) -> Options:
    resign_file(world, edit_header(lambda text: text.replace('"head.b"', '"head.\ud800"')))


@attack("12-deeply-nested-header")
def _(world: World) -> Options:
    deep = '"__metadata__":' + "[" * 200_000 + "]" * 200_000
    resign_file(world, edit_header(lambda text: text.replace('"__metadata__":{"format":"pt"}', deep)))


@attack("12-deeply-nested-statement")
def _(world: World) -> Options:
    world.sign(payload=lambda raw: b"[" * 200_000 + b"]" * 200_000)


@attack("13-two-tensors-of-one-shape-swapped")
def _(world: World) -> Options:
    world.sign()
    tensors = world.result_weights["model.safetensors"]
    tensors["bert.enc.0.w"], tensors["bert.enc.1.w"] = tensors["bert.enc.1.w"], tensors["bert.enc.0.w"]
    world.write()


@attack("14-dtype-altered")
def _(world: World) -> Options:
    world.sign()
    world.edit_result("bert.enc.0.w", lambda t: ("I32", t[1], t[2]))


@attack("15-shape-altered")
def _(world: World) -> Options:
    world.sign()
    world.edit_result("bert.enc.0.w", lambda t: (t[0], (4, 16), t[2]))


def edit_tensors(world: World, change: Callable[[dict[str, Tensor]], Any]) -> None:
    world.sign()
    change(world.result_weights["model.safetensors"])
    world.write()


@attack("16-tensor-renamed")
def _(world: World) -> Options:
    edit_tensors(world, lambda tensors: tensors.update(head_b=tensors.pop("head.b")))


@attack("16-tensor-dropped")
def _(world: World) -> Options:
    edit_tensors(world, lambda tensors: tensors.pop("head.b"))


@attack("16-tensor-added")
def _(world: World) -> Options:
    edit_tensors(world, lambda tensors: tensors.update(extra=tensor("F32", 2, seed="extra")))


@attack("16-tensor-added-and-file-signed", only="tensors_as_claimed")
def _(world: World) -> Options:
    rows = world.rows()
    world.result_weights["model.safetensors"]["extra"] = tensor("F32", 2, seed="extra")
    world.write()
    world.sign(world.predicate(rows=rows))


def trained_tie(root: Path) -> World:
    return tied_world(root, frozen=False)


@attack("16-copy-of-a-tie-with-other-bytes", only="aliases", world=trained_tie)
def _(world: World) -> Options:
    """One trained tensor under two names: which bytes a loader takes is the loader's choice."""
    world.edit_result("bert.dec.weight", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign(world.predicate(rows=tied_rows(world)))


@attack("16-copy-of-a-frozen-tie-with-other-bytes", world=tied_world)
def _(world: World) -> Options:
    world.edit_result("bert.dec.weight", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign(world.predicate(rows=tied_rows(world)))


@attack("17-one-name-in-two-shards", only="tensors_once", world=sharded_world)
def _(world: World) -> Options:
    rows = world.rows()
    first = "model-00001-of-00002.safetensors"
    world.result_weights[first]["head.b"] = tensor("F32", 2, seed="other")
    world.write()  # the index names the second shard, which has what the rows claim
    world.sign(world.predicate(rows=rows))


@attack("18-file-renamed")
def _(world: World) -> Options:
    world.sign()
    (world.result / "model.safetensors").rename(world.result / "model-1.safetensors")


@attack("18-shard-names-swapped", world=sharded_world)
def _(world: World) -> Options:
    world.sign()
    first, second = (world.result / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    first.rename(world.root / "kept")
    second.rename(first)
    (world.root / "kept").rename(second)


@attack("19-missing-file", only="nothing_missing")
def _(world: World) -> Options:
    world.sign()
    (world.result / "config.json").unlink()


@attack("19-missing-weights")
def _(world: World) -> Options:
    world.sign()
    (world.result / "model.safetensors").unlink()


@attack("19-extra-file", only="nothing_extra")
def _(world: World) -> Options:
    world.sign()
    (world.result / "tokenizer.json").write_text("{}")


@attack("19-nested-folder", only="no_folders")
def _(world: World) -> Options:
    world.sign()
    (world.result / "onnx").mkdir()
    (world.result / "onnx" / "model.onnx").write_bytes(b"weights")


@attack("20-config-changed", only="file_digests")
def _(world: World) -> Options:
    world.sign()
    (world.result / "config.json").write_bytes(b'{"model_type": "boy"}')


@attack("20-only-metadata-changed", only="file_digests")
def _(world: World) -> Options:
    world.sign()
    (world.result / "model.safetensors").write_bytes(file_bytes(result_tensors(), {"formal": "pt"}))


@attack("21-symlinked-shard", only="no_links", world=sharded_world)
def _(world: World) -> Options:
    world.sign()
    shard = world.result / "model-00001-of-00002.safetensors"
    shard.rename(world.root / "elsewhere")
    shard.symlink_to(world.root / "elsewhere")


@attack("21-link-to-nowhere")
def _(world: World) -> Options:
    world.sign()
    (world.result / "model.safetensors").unlink()
    (world.result / "model.safetensors").symlink_to(world.root / "nowhere")


@attack("22-shadow-weights", only="nothing_extra")
def _(world: World) -> Options:
    world.sign()
    (world.result / "pytorch_model.bin").write_bytes(b"\x80\x04")


@attack("22-shadow-weights-signed", only="no_containers")
def _(world: World) -> Options:
    world.result_files["pytorch_model.bin"] = b"\x80\x04"
    world.write()
    world.sign()


def set_float(value: bytes, at: int = 0) -> Callable[[Tensor], Tensor]:
    return lambda t: (t[0], t[1], t[2][:at] + value + t[2][at + 4 :])


def plant(world: World, value: bytes) -> None:
    """Put a float into the same place of the base and of the result."""
    for weights, name in ((world.base_weights, "enc.0.w"), (world.result_weights, "bert.enc.0.w")):
        weights["model.safetensors"][name] = set_float(value)(weights["model.safetensors"][name])
    world.write()
    world.pinned = total(base_readings(world.rows())).root


@attack("23-zero-becomes-minus-zero")
def _(world: World) -> Options:
    plant(world, b"\0\0\0\0")
    world.sign()
    world.edit_result("bert.enc.0.w", set_float(b"\0\0\0\x80"))


@attack("23-nan-payload")
def _(world: World) -> Options:
    plant(world, b"\0\0\xc0\x7f")
    world.sign()
    world.edit_result("bert.enc.0.w", set_float(b"\1\0\xc0\x7f"))


@attack("23-minus-zero-recorded-as-frozen", only="frozen_is_identical")
def _(world: World) -> Options:
    plant(world, b"\0\0\0\0")
    world.edit_result("bert.enc.0.w", set_float(b"\0\0\0\x80"))
    world.sign()


# Keys and envelopes


@attack("24-wrong-key", only="trusted_signature")
def _(world: World) -> Options:
    world.sign(keys=[generate()])


@attack("24-wrong-key-claims-a-trusted-keyid", only="trusted_signature")
def _(world: World) -> Options:
    sealed = world.sign(keys=[generate("ecdsa-p256")])
    sealed["signatures"][0]["keyid"] = KEY.keyid
    world.publish(sealed)


@attack("24-signature-of-another-algorithm", only="trusted_signature")
def _(world: World) -> Options:
    """A P-256 key is trusted; an Ed25519 signature over the same bytes is none of its signatures."""
    world.sign(keys=[KEY])
    return {"keys": (TrustedKey(generate("ecdsa-p256").public_pem),)}


@attack("25-no-signatures", only="trusted_signature")
def _(world: World) -> Options:
    sealed = world.sign()
    world.publish({**sealed, "signatures": []})


@attack("25-flood-of-signatures", only="signature_count")
def _(world: World) -> Options:
    sealed = world.sign()
    world.publish({**sealed, "signatures": sealed["signatures"] * 10_000})


@attack("26-payload-type-confusion", only="payload_type")
def _(world: World) -> Options:
    sealed = world.sign()
    kind, payload = "application/json", base64.b64decode(sealed["payload"])
    signature = base64.b64encode(KEY.sign(pae(kind, payload))).decode()
    world.publish({**sealed, "payloadType": kind, "signatures": [{"sig": signature}]})


@attack("26-payload-type-not-the-signed-one")
def _(world: World) -> Options:
    world.publish({**world.sign(), "payloadType": "application/json"})


@attack("26-predicate-type-confusion", only="predicate_type")
def _(world: World) -> Options:
    world.sign(document=lambda top: top.update(predicateType="https://slsa.dev/provenance/v1"))


@attack("26-statement-type-confusion", only="statement_type")
def _(world: World) -> Options:
    world.sign(document=lambda top: top.update(_type="https://in-toto.io/Statement/v0.1"))


@attack("27-edited-payload", only="trusted_signature")
def _(world: World) -> Options:
    sealed = world.sign()
    payload = base64.b64decode(sealed["payload"]).replace(b'"checks":41', b'"checks":99')
    world.publish({**sealed, "payload": base64.b64encode(payload).decode()})


@attack("27-no-payload")
def _(world: World) -> Options:
    world.publish({key: value for key, value in world.sign().items() if key != "payload"})


@attack("27-payload-that-is-not-base64")
def _(world: World) -> Options:
    world.publish({**world.sign(), "payload": "%%%"})


@attack("28-duplicate-keys-in-the-envelope", only="envelope_keys_once")
def _(world: World) -> Options:
    world.publish('{"payload":"e30=",' + json.dumps(world.sign())[1:])


@attack("28-duplicate-keys-in-the-payload", only="payload_keys_once")
def _(world: World) -> Options:
    world.sign(payload=lambda raw: raw.replace(b'"changed":', b'"changed":true,"changed":', 1))


@attack("28-unknown-statement-field", only="known_fields")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"].update(verdict="verified"))


@attack("28-unknown-row-field", only="known_fields")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["parameters"][0].update(Role="frozen"))


@attack("28-field-of-another-type")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["parameters"][0].update(changed=0))


# Statements that contradict themselves


def parameters(top: dict[str, Any]) -> list[Any]:
    found = top["predicate"]["parameters"]
    assert isinstance(found, list)
    return found


@attack("29-rows-reordered", only="rows_in_order")
def _(world: World) -> Options:
    world.sign(document=lambda top: parameters(top).reverse())


@attack("29-row-duplicated")
def _(world: World) -> Options:
    world.sign(document=lambda top: parameters(top).insert(1, parameters(top)[0]))


@attack("29-row-removed")
def _(world: World) -> Options:
    world.sign(document=lambda top: parameters(top).pop(0))


@attack("29-row-removed-and-roots-made-anew", levels=(2, 3))
def _(world: World) -> Options:
    rows = tuple(row for row in world.rows() if row.name != "bert.enc.0.w")
    world.sign(world.predicate(rows=rows))


@attack("30-role-flipped", only="roles")
def _(world: World) -> Options:
    """A frozen tensor that moved, offered as one that was trained."""
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", role="trainable")))


@attack("30-trained-tensor-offered-as-frozen")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.emb.weight", role="frozen")))


@attack("30-frozen-tensor-said-to-be-in-no-file")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", role="buffer", persistent=False)))


@attack("30-frozen-tensor-said-to-be-a-copy-of-a-trained-one", only="aliases")
def _(world: World) -> Options:
    """The policy decides tensors by their own names, and a copy has none."""
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    other = {"alias_of": "bert.emb.weight", "role": "trainable", "rule": "default", "mechanism": None}
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", **other)))


@attack("30-copy-of-a-tie-in-another-role", only="aliases", world=tied_world)
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(tied_rows(world), "bert.dec.weight", mechanism="detach")))


@attack("30-other-policy-bytes", only="policy_digest")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["policy"].update(on_violation="continue"))


@attack("30-other-policy-than-the-readers", only="pinned_policy")
def _(world: World) -> Options:
    world.sign()
    return {"policy_digest": Policy.from_json({"freeze": ["bert.**"]}).digest()}


@attack("30-policy-that-fits-nothing", only="policy_fits")
def _(world: World) -> Options:
    other = {"rules": [{"id": "encoder", "action": "freeze", "select": {"name": "gpt.**"}}]}
    world.sign(world.predicate(policy=other, rows=world.rows()))


@attack("30-another-rule-than-the-deciding-one", only="decisions")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", mechanism="detach")))


@attack("30-shape-beside-the-readings", only="own_form")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", dtype="F32", shape=(64,))))


@attack("30-parts-that-overlap", only="parts", world=fused_world)
def _(world: World) -> Options:
    world.sign(world.predicate(rows=fused_rows(world, second=(1, 3))))


@attack("31-empty-frozen-set", only="something_frozen")
def _(world: World) -> Options:
    world.policy = {}
    world.sign()


@attack("31-frozen-set-of-new-tensors-only", only="something_frozen")
def _(world: World) -> Options:
    """A head frozen at its random start is not identical to any base."""
    world.policy = {"freeze": ["head.w"]}
    world.sign()


# Another base, and a signer that lies


def other_base(world: World) -> None:
    """Base and result agree with each other, and with nothing that anyone has published."""
    for weights, name in ((world.base_weights, "enc.0.w"), (world.result_weights, "bert.enc.0.w")):
        dtype, shape, data = weights["model.safetensors"][name]
        weights["model.safetensors"][name] = (dtype, shape, flipped(data))


@attack("32-stale-base-root", levels=(2,), only="pinned_base")
def _(world: World) -> Options:
    world.sign()
    return {"base_root": "0" * 64}


@attack("32-consistent-statement-over-another-base", levels=(2,), only="pinned_base")
def _(world: World) -> Options:
    other_base(world)
    world.write()
    world.sign()


@attack("32-consistent-statement-over-another-base-at-hand", levels=(3,))
def _(world: World) -> Options:
    honest = {name: dict(tensors) for name, tensors in world.base_weights.items()}
    other_base(world)
    world.write()
    world.sign()
    world.base_weights = honest
    world.write()


@attack("32-another-base-with-the-files-digests", levels=(3,), only="base_tensors")
def _(world: World) -> Options:
    """The signer names the reader's base file and gives other digests for what is in it."""
    files = world.predicate().base_files
    honest = {name: dict(tensors) for name, tensors in world.base_weights.items()}
    other_base(world)
    world.write()
    predicate = world.predicate(base_files=files)
    world.base_weights = honest
    world.write()
    world.sign(predicate)


@attack("32-base-file-changed", levels=(3,), only="base_files")
def _(world: World) -> Options:
    world.sign()
    (world.base / "config.json").write_text('{"hidden_act": "relu"}')


@attack("32-base-file-missing", levels=(3,), only="base_files")
def _(world: World) -> Options:
    world.sign()
    (world.base / "config.json").unlink()


@attack("32-base-tensor-in-two-files", levels=(3,), only="base_tensors_once")
def _(world: World) -> Options:
    rows = world.rows()
    world.base_weights["a.safetensors"] = {"enc.0.w": tensor("F32", 8, 8, seed="other")}
    world.write()
    (world.base / "model.safetensors.index.json").unlink()
    world.sign(world.predicate(rows=rows))


def lie(world: World, change: Callable[[Tensor], Tensor]) -> None:
    """A frozen tensor changed; rows, flags and roots forged so that the statement agrees with itself and the result."""
    world.edit_result("bert.enc.0.w", change)
    rows = world.rows()
    result = row_of(rows, "bert.enc.0.w").result
    assert result is not None
    base = Reading("enc.0.w", result.dtype, result.shape, result.nbytes, result.sha256)
    world.sign(world.predicate(rows=forged(rows, "bert.enc.0.w", base=base)))


@attack("33-lying-signer-flips-a-bit", levels=(2, 3))
def _(world: World) -> Options:
    lie(world, lambda t: (t[0], t[1], flipped(t[2])))


@attack("33-lying-signer-alters-the-dtype", levels=(2, 3))
def _(world: World) -> Options:
    lie(world, lambda t: ("I32", t[1], t[2]))


@attack("33-lying-signer-alters-the-shape", levels=(2, 3))
def _(world: World) -> Options:
    lie(world, lambda t: (t[0], (4, 16), t[2]))


@attack("33-lying-signer-swaps-two-tensors", levels=(2, 3))
def _(world: World) -> Options:
    rows = world.rows()
    first, second = row_of(rows, "bert.enc.0.w"), row_of(rows, "bert.enc.1.w")
    assert first.base
    assert second.base
    tensors = world.result_weights["model.safetensors"]
    tensors["bert.enc.0.w"], tensors["bert.enc.1.w"] = tensors["bert.enc.1.w"], tensors["bert.enc.0.w"]
    world.write()
    rows = forged(world.rows(), "bert.enc.0.w", base=second.base._replace(name="enc.0.w"))
    world.sign(world.predicate(rows=forged(rows, "bert.enc.1.w", base=first.base._replace(name="enc.1.w"))))


@attack("33-lying-signer-pairs-swapped-tensors-with-each-other", only="base_names")
def _(world: World) -> Options:
    """Both roots are true, and each tensor is compared with the one that it was swapped with."""
    tensors = world.result_weights["model.safetensors"]
    tensors["bert.enc.0.w"], tensors["bert.enc.1.w"] = tensors["bert.enc.1.w"], tensors["bert.enc.0.w"]
    world.write()
    rows = world.rows()
    first, second = row_of(rows, "bert.enc.0.w").base, row_of(rows, "bert.enc.1.w").base
    world.sign(world.predicate(rows=forged(forged(rows, "bert.enc.0.w", base=second), "bert.enc.1.w", base=first)))


@attack("33-lying-signer-calls-a-changed-tensor-new", only="base_names")
def _(world: World) -> Options:
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    rows = world.rows()
    base, result = row_of(rows, "bert.enc.0.w").base, row_of(rows, "bert.enc.0.w").result
    rows = forged(rows, "bert.enc.0.w", role="new", base=None, initial=result)
    dropped = row_of(rows, "pooler.w")._replace(name="enc.0.w", base=base)
    world.sign(world.predicate(rows=(*rows, dropped)))


@attack("33-lying-signer-hides-a-tensor-from-the-policy", only="live_names")
def _(world: World) -> Options:
    """Under another live name the policy's pattern does not reach the tensor."""
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    lied = {"name": "wrapped.bert.enc.0.w", "role": "trainable", "rule": "default", "mechanism": None}
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", **lied)))


@attack("33-lying-signer-swaps-live-names")
def _(world: World) -> Options:
    """The frozen live name points at a tensor that did not move, the trained one at the tensor that did."""
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    rows = world.rows()
    frozen, trained = row_of(rows, "bert.enc.0.w"), row_of(rows, "bert.emb.weight")
    kept = tuple(row for row in rows if row not in (frozen, trained))
    other = trained._replace(name="bert.emb.other", base=frozen.base, result=frozen.result)
    world.sign(world.predicate(rows=(*kept, other)))


@attack("33-lying-signer-about-frozen-rows", levels=(1, 3), only="slices_as_claimed", world=split_world)
def _(world: World) -> Options:
    """Frozen rows of a partly frozen tensor changed; their digest in the result is forged to the base's."""
    honest = row_of(split_rows(world), "bert.emb.weight").slices
    world.edit_result("bert.emb.weight", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign(world.predicate(rows=forged(world.rows(), "bert.emb.weight", slices=honest)))


@attack("33-lying-signer-calls-a-model-an-adapter", world=adapter_world)
def _(world: World) -> Options:
    """A changed tensor under the base's own name, in a result that is said to leave the base where it is."""
    world.result_weights["adapter_model.safetensors"]["enc.0.w"] = tensor("F32", 8, 8, seed="changed")
    world.policy = {"train": ["**.default.weight", "enc.**"]}
    world.write()
    reading = readings(world.result)["enc.0.w"]
    rows = [row for row in adapter_rows(world) if not (row.result and row.result.name == "enc.0.w")]
    rows.append(Row(name="enc.0.w", role="new", rule="rule-1", initial=reading, result=reading, changed=True))
    world.sign(world.predicate(rows=tuple(rows), result_kind="adapter"))


@attack("33-model-file-in-an-adapter", world=adapter_world)
def _(world: World) -> Options:
    world.result_weights["model.safetensors"] = {"base_model.model.x.weight": tensor("F32", 2, seed="x")}
    world.write()
    world.sign(world.predicate(rows=adapter_rows(world), result_kind="adapter"))


@attack("41-adapter-config-in-a-model-signed", only="adapter_or_model")
def _(world: World) -> Options:
    world.result_files["adapter_config.json"] = b'{"peft_type": "LORA"}'
    world.write()
    world.sign()


@attack("30-parts-of-a-partly-frozen-tensor", only="parts", world=split_world)
def _(world: World) -> Options:
    whole = {"part": (0, 8), "shape": (8, 4), "dtype": "F32"}
    world.sign(world.predicate(rows=forged(split_rows(world), "bert.emb.weight", **whole)))


@attack("12-nested-beyond-reading")
def _(world: World) -> Options:
    """Deep enough for a recursive reader to give up, not for the parser."""
    deep = b'"x":' + b"[" * 800 + b"]" * 800 + b","
    world.sign(payload=lambda raw: raw.replace(b"{", b"{" + deep, 1))


# Drift, other jobs, old nonces, keys out of their time


@attack("34-drift-recorded-yet-offered-as-frozen", only="frozen_is_identical")
def _(world: World) -> Options:
    world.edit_result("bert.enc.0.w", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign()


@attack("34-cast-to-a-wider-dtype-offered-as-frozen", only="frozen_is_identical")
def _(world: World) -> Options:
    """bf16 as fp32 keeps every value and no identity."""
    widened = b"".join(b"\0\0" + base_tensors()["enc.0.b"][2][at : at + 2] for at in range(0, 16, 2))
    world.edit_result("bert.enc.0.b", lambda t: ("F32", t[1], widened))
    world.sign()


@attack("34-drift-during-training-then-restored", only="frozen_while_live")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", trained="ab" * 32)))


@attack("34-violation-recorded", only="no_violations")
def _(world: World) -> Options:
    world.sign(world.predicate(violations=("bert.enc.0.w",)))


@attack("34-frozen-rows-drifted", only="slices", world=split_world)
def _(world: World) -> Options:
    world.edit_result("bert.emb.weight", lambda t: (t[0], t[1], flipped(t[2])))
    world.sign(world.predicate(rows=split_rows(world)))


@attack("34-fewer-rows-frozen-than-the-policy-says", only="slices", world=split_world)
def _(world: World) -> Options:
    rows = split_rows(world)
    some = row_of(rows, "bert.emb.weight").slices[1:]
    world.sign(world.predicate(rows=forged(rows, "bert.emb.weight", slices=some)))


@attack("34-drift-within-an-interval", only="intervals", world=scheduled_world)
def _(world: World) -> Options:
    world.sign(world.predicate(rows=scheduled_rows(world, after="ab" * 32)))


@attack("34-interval-that-did-not-start-as-the-base", only="intervals", world=scheduled_world)
def _(world: World) -> Options:
    world.sign(world.predicate(rows=scheduled_rows(world, before="ab" * 32)))


@attack("34-no-intervals", only="intervals", world=scheduled_world)
def _(world: World) -> Options:
    world.sign()


@attack("34-one-of-several-intervals-dropped", only="intervals", world=twice_frozen_world)
def _(world: World) -> Options:
    """Frozen, trained, frozen again, and the second freeze did not hold: the statement leaves it out."""
    rows = twice_frozen_rows(world)
    spans = row_of(rows, "bert.emb.weight").intervals
    world.sign(world.predicate(rows=forged(rows, "bert.emb.weight", intervals=spans[:1])))


@attack("34-first-of-several-intervals-dropped", only="intervals", world=twice_frozen_world)
def _(world: World) -> Options:
    rows = twice_frozen_rows(world)
    spans = row_of(rows, "bert.emb.weight").intervals
    world.sign(world.predicate(rows=forged(rows, "bert.emb.weight", intervals=spans[1:])))


@attack("34-an-interval-cut-short", only="intervals", world=twice_frozen_world)
def _(world: World) -> Options:
    rows = twice_frozen_rows(world)
    first, second = row_of(rows, "bert.emb.weight").intervals
    spans = (first, second._replace(to_step=30))
    world.sign(world.predicate(rows=forged(rows, "bert.emb.weight", intervals=spans)))


@attack("35-another-jobs-statement", only="job")
def _(world: World) -> Options:
    world.sign()
    return {"job": "ftjob-2"}


@attack("35-another-jobs-result")
def _(world: World) -> Options:
    world.sign()
    world.result_weights["model.safetensors"]["head.w"] = tensor("F32", 2, 8, seed="another job")
    world.write()


@attack("36-an-old-nonce", only="nonce")
def _(world: World) -> Options:
    world.sign()
    return {"nonce": "n-2"}


@attack("36-no-nonce-where-one-was-sent", only="nonce")
def _(world: World) -> Options:
    world.sign(world.predicate(nonce=None))
    return {"nonce": "n-1"}


DAY = timedelta(days=1)


@attack("37-backdated", only="key_validity")
def _(world: World) -> Options:
    world.sign(world.predicate(issued_at=NOW - 2 * DAY))
    return {"keys": (TrustedKey(KEY.public_pem, not_before=NOW - DAY),)}


@attack("37-key-of-the-future", only="key_validity")
def _(world: World) -> Options:
    world.sign()
    return {"keys": (TrustedKey(KEY.public_pem, not_before=NOW + DAY),)}


@attack("37-expired-key", only="key_validity")
def _(world: World) -> Options:
    world.sign()
    return {"keys": (TrustedKey(KEY.public_pem, not_after=NOW - DAY),)}


@attack("37-revoked-key", only="key_validity")
def _(world: World) -> Options:
    """Whoever has a stolen key can write any date, so a revoked key counts for nothing."""
    world.sign()
    return {"keys": (TrustedKey(KEY.public_pem, revoked_at=NOW + DAY),)}


@attack("37-statement-from-the-future", only="not_from_the_future")
def _(world: World) -> Options:
    world.sign(world.predicate(issued_at=NOW + DAY))


# Subjects, roots, flags


def rename_subject(top: dict[str, Any], name: str) -> None:
    for entries in (top["subject"], top["predicate"]["result"]["files"]):
        next(entry for entry in entries if entry["name"] == "config.json")["name"] = name


@attack("38-path-traversal-in-a-subject")
def _(world: World) -> Options:
    (world.result / "config.json").rename(world.root / "config.json")
    world.result_files = {}
    files = (*world.predicate().result_files, FileRef("../config.json", 21, sha256_file(world.root / "config.json")))
    world.sign(world.predicate(result_files=files))


@attack("38-absolute-path-in-a-subject")
def _(world: World) -> Options:
    world.sign(document=lambda top: rename_subject(top, str(world.result / "config.json")))


@attack("38-drive-letter-in-a-subject", only="subject_names")
def _(world: World) -> Options:
    (world.result / "config.json").rename(world.result / "c:config.json")
    world.sign()


@attack("38-duplicate-subject", only="subjects_once")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["subject"].append(top["subject"][0]))


@attack("38-md5-only", only="subjects_are_files")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["subject"][0].update(digest={"md5": "0" * 32}))


@attack("38-subject-that-is-not-the-result", only="subjects_are_files")
def _(world: World) -> Options:
    """In-toto matches by digest alone: the base's file as a subject would pass for the result elsewhere."""
    digest = {"sha256": sha256_file(world.base / "model.safetensors")}
    world.sign(document=lambda top: top["subject"].append({"name": "base.safetensors", "digest": digest}))


@attack("39-another-tree-scheme", only="scheme")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["scheme"].update(tree="flat-sha256"))


@attack("39-wrong-base-root", levels=(1, 3), only="base_total")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["base"].update(root="ab" * 32))


@attack("39-pinned-root-over-another-bases-rows", levels=(2,), only="base_total")
def _(world: World) -> Options:
    """The root is the published one, the rows are not its rows."""
    other_base(world)
    world.write()
    world.sign(document=lambda top: top["predicate"]["base"].update(root=world.pinned))


@attack("39-wrong-result-root", only="result_total")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["result"].update(root="ab" * 32))


@attack("39-wrong-frozen-root", only="frozen_total")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["frozen"].update(root="ab" * 32))


@attack("39-wrong-frozen-count", only="frozen_total")
def _(world: World) -> Options:
    world.sign(document=lambda top: top["predicate"]["frozen"].update(count=40))


@attack("39-changed-flag-that-lies", only="changed_flags")
def _(world: World) -> Options:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.emb.weight", changed=False)))


@attack("39-wrong-tensor-size", levels=(1,), only="sizes")
def _(world: World) -> Options:
    base = row_of(world.rows(), "bert.enc.0.w").base
    assert base is not None
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", base=base._replace(nbytes=1))))


@attack("39-wrong-file-digest", only="file_digests")
def _(world: World) -> Options:
    """A signer that names another file as the subject, for tools that match by digest alone."""
    files = tuple(file._replace(sha256="ab" * 32) for file in world.predicate().result_files)
    config = next(file for file in world.predicate().result_files if file.name == "config.json")
    world.sign(world.predicate(result_files=(config, *(file for file in files if file.name != "config.json"))))


@attack("39-wrong-file-size", only="file_sizes")
def _(world: World) -> Options:
    files = tuple(file._replace(size=file.size + 1) for file in world.predicate().result_files)
    world.sign(world.predicate(result_files=files))


# Fine-tunes of fine-tunes


@attack("32-chain-over-another-first-base", levels=(2,), only="pinned_base", world=chained_world)
def _(world: World) -> Options:
    world.sign()
    return {"base_root": "0" * 64}


@attack("32-chain-of-which-a-statement-is-another-one", only="chain_is_named", world=chained_world)
def _(world: World) -> Options:
    world.sign(world.predicate(previous="ab" * 32))


@attack("32-chain-that-is-not-mentioned", only="chain_is_named", world=chained_world)
def _(world: World) -> Options:
    world.sign(world.predicate(previous=None))


@attack("32-chain-with-a-gap", only="chain_is_linked", world=chained_world)
def _(world: World) -> Options:
    """The base is not what the statement before it says that it made: something happened in between."""
    rows = [name for name in ("head.b",) if world.base_weights["model.safetensors"].pop(name)]
    assert rows
    world.write()
    world.sign()


@attack("33-lying-signer-earlier-in-the-chain", levels=(2,), world=chained_world)
def _(world: World) -> Options:
    """The first fine-tune moved a frozen tensor and said that the base had it so."""
    first = world.previous
    assert first is not None
    lie(first, lambda t: (t[0], t[1], flipped(t[2])))
    for weights in (world.base_weights, world.result_weights):
        weights["model.safetensors"]["bert.enc.0.w"] = first.result_weights["model.safetensors"]["bert.enc.0.w"]
    world.write()
    world.sign()


@attack("24-wrong-key-earlier-in-the-chain", only="trusted_signature", world=chained_world)
def _(world: World) -> Options:
    assert world.previous is not None
    world.previous.sign(keys=[generate()])
    world.sign()


@attack("31-nothing-frozen-all-along-a-chain", only="chain_leaves_something_frozen", world=chained_world)
def _(world: World) -> Options:
    world.policy = {"freeze": ["head.w"]}
    world.sign()


# Beside the weights


def set_index(world: World, change: Callable[[dict[str, Any]], Any]) -> None:
    path = world.result / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@attack("40-index-points-elsewhere", world=sharded_world)
def _(world: World) -> Options:
    world.sign()
    set_index(world, lambda where: where.update({"head.w": "../evil.safetensors"}))


@attack("40-index-points-elsewhere-signed", only="index", world=sharded_world)
def _(world: World) -> Options:
    set_index(world, lambda where: where.update({"head.w": "../evil.safetensors"}))
    world.sign()


@attack("40-index-leaves-a-tensor-out", only="index", world=sharded_world)
def _(world: World) -> Options:
    set_index(world, lambda where: where.pop("head.w"))
    world.sign()


@attack("40-no-index", only="index", world=sharded_world)
def _(world: World) -> Options:
    (world.result / "model.safetensors.index.json").unlink()
    world.sign()


@attack("41-auto-map-in-the-bases-config", levels=(3,), only="base_files")
def _(world: World) -> Options:
    world.sign()
    (world.base / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_toy.Toy"}}')


@attack("41-adapter-config-beside-the-base", levels=(3,), only="base_strays")
def _(world: World) -> Options:
    world.sign()
    (world.base / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def other_name_world(root: Path) -> World:
    """A base whose weights have a name that no loader looks for."""
    return World(root, base_weights={"weights.safetensors": base_tensors()})


@attack("41-shadow-weights-beside-the-base", levels=(3,), only="base_strays", world=other_name_world)
def _(world: World) -> Options:
    world.sign()
    (world.base / "PyTorch_Model.BIN").write_bytes(b"\x80\x04")


def sharded_base_world(root: Path) -> World:
    """A base in two files with an index."""
    tensors = base_tensors()
    first = {name: tensors.pop(name) for name in list(tensors)[:2]}
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": tensors}
    return World(root, base_weights=shards)


for number, name in enumerate(("model.safetensors", "consolidated.safetensors", "model.fp16.safetensors")):

    @attack(f"41-weights-beside-the-bases-shards-{number}", levels=(3,), only="base_strays", world=sharded_base_world)
    def _(world: World, name: str = name) -> Options:
        world.sign()
        (world.base / name).write_bytes(b"others")


@attack("41-adapter-slipped-in-beside-the-result", only="nothing_extra")
def _(world: World) -> Options:
    world.sign()
    (world.result / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def look_alike_world(root: Path) -> World:
    """A result in which two tensors differ in case, and two in Unicode normal form."""
    world = World(root)
    tensors = world.result_weights["model.safetensors"]
    tensors["Head.w"] = tensor("F32", 1, seed="capital")
    for form in ("NFC", "NFD"):
        tensors[unicodedata.normalize(form, "tête.w")] = tensor("F32", 1, seed=form)
    world.write()
    return world
