"""Attacks on results with quantised weights: what a loader would not take as it was proved."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from app.evidence.format.statement import Row, base_readings, row_order, total
from tests.tamper.attacks import Options, attack
from tests.tamper.kit import Tensor, World, adapter_rows, adapter_world, tensor
from tests.tamper.loading import overlaid

CONFIG: dict[str, Any] = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "llm_int8_threshold": 6.0,
    "llm_int8_skip_modules": ["head"],
}
POLICY = {"rules": [{"id": "encoder", "action": "freeze", "select": {"name": ["enc.**", "up.**"]}}]}


def base_tensors() -> dict[str, Tensor]:
    return {
        "enc.w": tensor("BF16", 8, 8, seed="w"),
        "up.weight": tensor("U8", 32, 1, seed="codes"),
        "up.weight.absmax": tensor("F32", 1, seed="absmax"),
        "up.weight.quant_map": tensor("F32", 16, seed="map"),
        "up.weight.quant_state.bitsandbytes__nf4": tensor("U8", 16, seed="state"),
        "head.weight": tensor("BF16", 2, 8, seed="head"),
    }


def quantised_world(root: Path) -> World:
    """A frozen base with one layer in 4 bits, and a head that trained."""
    world = World(
        root,
        base_weights={"model.safetensors": base_tensors()},
        result_weights={"model.safetensors": base_tensors() | {"head.weight": tensor("BF16", 2, 8, seed="trained")}},
        result_files={"config.json": configuration()},
        policy=dict(POLICY),
    )
    (world.base / "config.json").write_bytes(configuration())
    return world


def configuration(**changes: Any) -> bytes:
    content = {"model_type": "toy", "dtype": "bfloat16", "quantization_config": CONFIG | changes}
    return json.dumps(content).encode()


def reconfigured(world: World, **changes: Any) -> None:
    world.result_files["config.json"] = configuration(**changes)
    world.write()
    (world.base / "config.json").write_bytes(configuration())
    world.sign()


#: As compressed-tensors writes it of a base that is read below an adapter.
PACKED: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16},
        }
    },
}
#: As models in float8 with block scales are published.
SMALL: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
#: As AutoGPTQ writes it.
INTEGERS: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True, "sym": False}
CHANGES: dict[str, dict[str, Any]] = {
    "another-quantiser": {"quant_method": "gptq"},
    "a-quantiser-that-nobody-knows": {"quant_method": "shrink"},
    "another-kind": {"bnb_4bit_quant_type": "fp4"},
    "8-bits": {"load_in_4bit": False, "load_in_8bit": True},
    "another-key": {"dequantize": True},
    "a-quantised-layer-left-out": {"llm_int8_skip_modules": ["head", "up"]},
    "a-pattern": {"llm_int8_skip_modules": ["u.*"]},
}

for name, changed in CHANGES.items():

    @attack(f"41-quantised-result-with-{name}", only="quantised", world=quantised_world)
    def _(world: World, changes: dict[str, Any] = changed) -> Options:
        reconfigured(world, **changes)


for name, form in {"unpack": PACKED, "decode": SMALL, "decode-from-whole-numbers": INTEGERS}.items():

    @attack(f"41-quantised-result-that-loaders-{name}", only="quantised", world=quantised_world)
    def _(world: World, form: dict[str, Any] = form) -> Options:
        world.result_files["config.json"] = json.dumps({"model_type": "toy", "quantization_config": form}).encode()
        world.write()
        (world.base / "config.json").write_bytes(configuration())
        world.sign()


@attack(
    "41-quantised-result-in-another-arithmetic-than-the-base-at-hand",
    only="quantised",
    levels=(3,),
    world=quantised_world,
)
def _(world: World) -> Options:
    """Other results come of the same codes: rounded to another block of the input, or with other outliers."""
    reconfigured(world, llm_int8_threshold=1.0)


@attack(
    "41-quantised-result-that-quantises-a-plain-layer-of-the-base",
    only="quantised",
    levels=(3,),
    world=quantised_world,
)
def _(world: World) -> Options:
    """A layer of 4-bit codes is made for plain weights, and rounds them once they move to a GPU."""
    reconfigured(world, llm_int8_skip_modules=[])


@attack("41-quantised-result-whose-scales-train", only="quantised", world=quantised_world)
def _(world: World) -> Options:
    """The codes are proved, and what they stand for is not."""
    world.policy = {"rules": [{"id": "encoder", "action": "freeze", "select": {"name": ["enc.**", "up.weight"]}}]}
    world.result_weights["model.safetensors"]["up.weight.absmax"] = tensor("F32", 1, seed="other")
    world.write()
    world.sign()


@attack("41-quantised-result-without-its-scales", only="quantised", world=quantised_world)
def _(world: World) -> Options:
    world.policy = {"rules": [{"id": "encoder", "action": "freeze", "select": {"name": ["enc.**", "up.weight"]}}]}
    del world.result_weights["model.safetensors"]["up.weight.absmax"]
    world.write()
    world.sign()


# A plain base that was quantised for training


def quantised_rows(world: World, **changes: Any) -> None:
    """Signs the adapter's statement in which `enc.1.w` was quantised for training."""
    readings = {"quantised": "a" * 64, "loaded": "a" * 64, "trained": "a" * 64} | changes
    rows = [row._replace(**readings) if row.base and row.base.name == "enc.1.w" else row for row in adapter_rows(world)]
    world.sign(world.predicate(rows=tuple(rows), result_kind="adapter"))


@attack("41-quantised-for-training-with-other-bytes-at-the-end", only="frozen_while_live", world=adapter_world)
def _(world: World) -> Options:
    quantised_rows(world, trained="b" * 64)


@attack("41-quantised-for-training-and-never-read", only="quantised_below_adapter", world=adapter_world)
def _(world: World) -> Options:
    quantised_rows(world, loaded=None, trained=None)


@attack("41-quantised-for-training-and-stored-in-the-result", only="quantised_below_adapter")
def _(world: World) -> Options:
    """The digest would excuse a frozen tensor that had other bytes in memory."""
    other: dict[str, Any] = {"quantised": "a" * 64, "loaded": "a" * 64, "trained": "a" * 64}
    rows = [row._replace(**other) if row.name == "bert.enc.1.w" else row for row in world.rows()]
    world.sign(world.predicate(rows=tuple(rows)))


# A base of codes that were decoded for training


def decoded_world(root: Path) -> World:
    """An adapter over a base with one weight in float8 and one in MXFP4, beside their scales."""
    world = adapter_world(root)
    world.base_weights["model.safetensors"] |= {
        "enc.2.weight": tensor("F8_E4M3", 8, 8, seed="codes"),
        "enc.2.weight_scale_inv": tensor("F32", 1, 1, seed="scales"),
        "enc.2.down_proj_blocks": tensor("U8", 2, 8, 1, 16, seed="blocks"),
        "enc.2.down_proj_scales": tensor("U8", 2, 8, 1, seed="exponents"),
    }
    world.write()
    world.pinned = total(base_readings(adapter_rows(world))).root
    return world


def decoded_rows(world: World, *, codes: str = "enc.2.weight", **changes: Any) -> None:
    """Signs the adapter's statement in which these codes were decoded for training."""
    world.sign(world.predicate(rows=rows_of_decoded(world, codes=codes, **changes), result_kind="adapter"))


def rows_of_decoded(world: World, *, codes: str = "enc.2.weight", **changes: Any) -> tuple[Row, ...]:
    """The rows of that statement."""
    readings = {"decoded": "a" * 64, "loaded": "a" * 64, "trained": "a" * 64} | changes
    rows = [row._replace(**readings) if row.base and row.base.name == codes else row for row in adapter_rows(world)]
    rows = [row._replace(name=row.name.removesuffix("_blocks")) for row in rows]  # as it is called in the model
    return tuple(sorted(rows, key=row_order))


@attack("41-decoded-for-training-with-other-bytes-at-the-end", only="frozen_while_live", world=decoded_world)
def _(world: World) -> Options:
    decoded_rows(world, trained="b" * 64)


def unscaled_world(root: Path) -> World:
    """The same without the scales of the weight in float8."""
    world = decoded_world(root)
    del world.base_weights["model.safetensors"]["enc.2.weight_scale_inv"]
    world.write()
    world.pinned = total(base_readings(adapter_rows(world))).root
    return world


@attack("41-decoded-for-training-with-scales-of-nowhere", only="quantised_below_adapter", world=unscaled_world)
def _(world: World) -> Options:
    """What the codes were multiplied by is not in the base."""
    decoded_rows(world)


@attack("41-decoded-for-training-and-never-read", only="quantised_below_adapter", world=decoded_world)
def _(world: World) -> Options:
    decoded_rows(world, loaded=None, trained=None)


@attack("41-decoded-for-training-and-quantised-as-well", only="quantised_below_adapter", world=decoded_world)
def _(world: World) -> Options:
    """One of the two would stand for the other."""
    decoded_rows(world, quantised="a" * 64)


@attack("41-codes-that-were-quantised-for-training", only="quantised_below_adapter", world=decoded_world)
def _(world: World) -> Options:
    """Codes are not quantised: a reader would look for codes of codes."""
    decoded_rows(world, decoded=None, quantised="a" * 64)


@attack("41-plain-weight-that-was-decoded-for-training", only="quantised_below_adapter", world=adapter_world)
def _(world: World) -> Options:
    """The digest would excuse a plain weight that had other bytes in memory than in the base."""
    quantised_rows(world, quantised=None, decoded="a" * 64)


@attack("41-scales-that-were-decoded-for-training", only="quantised_below_adapter", world=decoded_world)
def _(world: World) -> Options:
    """Whole numbers, but no codes: it would excuse scales that had other bytes in memory."""
    decoded_rows(world, codes="enc.2.down_proj_scales")


@attack("41-codes-decoded-to-another-name", only="live_names", world=decoded_world)
def _(world: World) -> Options:
    """The policy would be about another tensor."""
    rows = [row._replace(name=row.name.replace("down_proj_blocks", "gate_up_proj")) for row in adapter_rows(world)]
    world.sign(world.predicate(rows=tuple(sorted(rows, key=row_order)), result_kind="adapter"))


@attack("41-scales-that-were-quantised-for-training", only="quantised_below_adapter", world=decoded_world)
def _(world: World) -> Options:
    """It would excuse scales that had other bytes in memory, and with them every weight that they belong to."""
    decoded_rows(world, codes="enc.2.weight_scale_inv", decoded=None, quantised="a" * 64)


# Codes of the other forms, each beside what it is decoded by


#: By form: the tensors of a weight in the module `enc.2`, its codes first.
WEIGHTS: dict[str, dict[str, Tensor]] = {
    "whole-numbers": {
        "enc.2.qweight": tensor("I32", 1, 8, seed="qweight"),
        "enc.2.qzeros": tensor("I32", 1, 1, seed="qzeros"),
        "enc.2.scales": tensor("F16", 1, 8, seed="scales"),
        "enc.2.g_idx": tensor("I32", 8, seed="groups"),
    },
    "float8": {
        "enc.2.weight": tensor("F8_E4M3", 8, 8, seed="codes"),
        "enc.2.weight_scale": tensor("BF16", 8, 1, seed="scales"),
        "enc.2.input_scale": tensor("F32", 1, seed="inputs"),
    },
    "nvfp4": {
        "enc.2.weight_packed": tensor("U8", 8, 8, seed="packed"),
        "enc.2.weight_scale": tensor("F8_E4M3", 8, 1, seed="scales"),
        "enc.2.weight_global_scale": tensor("F32", 1, seed="whole"),
    },
}


def world_of(form: str, root: Path) -> World:
    """An adapter over a base with one weight in this form."""
    world = adapter_world(root)
    world.base_weights["model.safetensors"] |= WEIGHTS[form]
    world.write()
    world.pinned = total(base_readings(adapter_rows(world))).root
    return world


def sign_decoded(world: World, form: str, *, dropped: str | None = None, made: str | None = None) -> None:
    """Signs the statement in which the codes, or the tensor `made`, were decoded, and `dropped` is not in the model."""
    readings: dict[str, Any] = {"decoded": "a" * 64, "loaded": "a" * 64, "trained": "a" * 64}
    codes = made or next(iter(WEIGHTS[form]))
    rows = []
    for row in adapter_rows(world):
        name = row.base.name if row.base else ""
        row = row._replace(**readings) if name == codes else row
        row = row._replace(name=row.name.replace("qweight", "weight").replace("weight_packed", "weight"))
        rows.append(Row(name, role="dropped", base=row.base, changed=False) if name == dropped else row)
    world.sign(world.predicate(rows=tuple(sorted(rows, key=row_order)), result_kind="adapter"))


for name, tensors in WEIGHTS.items():
    for part in list(tensors)[1:]:

        @attack(
            f"41-decoded-{name}-whose-{part.removeprefix('up.')}-is-not-in-the-model",
            only="quantised_below_adapter",
            world=partial(world_of, name),
        )
        def _(world: World, form: str = name, part: str = part) -> Options:
            """What the codes were decoded by is nothing that was read."""
            sign_decoded(world, form, dropped=part)

        @attack(
            f"41-{part.removeprefix('up.')}-of-{name}-that-was-decoded",
            only="quantised_below_adapter",
            world=partial(world_of, name),
        )
        def _(world: World, form: str = name, part: str = part) -> Options:
            """The digest would excuse a scale, a zero point or a group that had other bytes in memory."""
            sign_decoded(world, form, made=part)

        @attack(
            f"41-decoded-{name}-over-another-{part.removeprefix('up.')}",
            only=None,
            levels=(3,),
            world=partial(world_of, name),
        )
        def _(world: World, form: str = name, part: str = part) -> Options:
            """The base at hand is not the one that was decoded."""
            sign_decoded(world, form)
            kind, shape, _ = WEIGHTS[form][part]
            world.base_weights["model.safetensors"] |= {part: tensor(kind, *shape, seed="another")}
            world.write()

    @attack(
        f"41-decoded-{name}-over-a-base-of-another-form", only="quantised", levels=(3,), world=partial(world_of, name)
    )
    def _(world: World, form: str = name) -> Options:
        """Loaders do not decode it so."""
        said = {"model_type": "toy", "quantization_config": SMALL}
        (world.base / "config.json").write_text(json.dumps(said))
        sign_decoded(world, form)


@attack("41-copy-of-decoded-experts-in-an-adapter", only="beside_frozen", world=decoded_world)
def _(world: World) -> Options:
    """The model computes with the copy, which has the name of the weight and not that of its codes."""
    overlaid(
        world,
        "base_model.model.enc.2.down_proj",
        "base_model.model.enc.2.modules_to_save.default.down_proj",
        modules_to_save=["enc.2"],
    )


def packed_world(root: Path) -> World:
    """An adapter over a base with one weight in packed codes, beside their scales."""
    world = adapter_world(root)
    world.base_weights["model.safetensors"] |= {
        "enc.2.weight_packed": tensor("I32", 8, 1, seed="packed"),
        "enc.2.weight_scale": tensor("BF16", 8, 1, seed="scale"),
        "enc.2.weight_shape": tensor("I64", 2, seed="shape"),
    }
    world.write()
    world.pinned = total(base_readings(adapter_rows(world))).root
    return world


@attack("41-copy-of-a-packed-weight-in-an-adapter", only="beside_frozen", world=packed_world)
def _(world: World) -> Options:
    """Loaders that unpack a base have a weight of this name, and compute with the copy of it."""
    overlaid(
        world,
        "base_model.model.enc.2.weight",
        "base_model.model.enc.2.modules_to_save.default.weight",
        modules_to_save=["enc.2"],
    )


@attack("41-scales-of-a-packed-weight-that-were-quantised", only="quantised_below_adapter", world=packed_world)
def _(world: World) -> Options:
    """A base of codes is not quantised again, and its scales are computed with as they are stored."""
    decoded_rows(world, codes="enc.2.weight_scale", decoded=None, quantised="a" * 64)


@attack("41-packed-codes-that-were-quantised", only="quantised_below_adapter", world=packed_world)
def _(world: World) -> Options:
    """A reader would look for codes of codes."""
    decoded_rows(world, codes="enc.2.weight_packed", decoded=None, quantised="a" * 64)


@attack("41-whole-numbers-of-a-plain-base-that-were-quantised", only="quantised_below_adapter", world=adapter_world)
def _(world: World) -> Options:
    """No codes are made of them, so the digest would excuse a counter or a table that had other bytes in memory."""
    world.base_weights["model.safetensors"]["enc.2.table"] = tensor("I64", 8, seed="table")
    world.write()
    world.pinned = total(base_readings(adapter_rows(world))).root
    decoded_rows(world, codes="enc.2.table", decoded=None, quantised="a" * 64)


#: What a base's config.json says of its weights: nothing, or another form.
OTHER_FORMS: dict[str, dict[str, Any]] = {
    "nothing": {"model_type": "toy"},
    "packed-codes": {"model_type": "toy", "quantization_config": PACKED},
    "codes-of-another-form": {"model_type": "toy", "quantization_config": SMALL},  # of two, one is in the other form
    "a-quantiser-that-nobody-knows": {"model_type": "toy", "quantization_config": {"quant_method": "shrink"}},
}

#: What a config.json says of the weights of `WEIGHTS`, and the key of what it leaves plain.
SAID: dict[str, tuple[dict[str, Any], str]] = {
    "whole-numbers": (INTEGERS, "modules_to_not_convert"),
    "float8": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
                }
            },
        },
        "ignore",
    ),
}

for name, (form, key) in SAID.items():

    @attack(
        f"41-decoded-{name}-that-the-base-says-are-plain", only="quantised", levels=(3,), world=partial(world_of, name)
    )
    def _(world: World, name: str = name, form: dict[str, Any] = form, key: str = key) -> Options:
        """Loaders take codes for a weight, or do not load them."""
        said = {"model_type": "toy", "quantization_config": form | {key: ["enc.2"]}}
        (world.base / "config.json").write_text(json.dumps(said))
        sign_decoded(world, name)


for name, said in OTHER_FORMS.items():

    @attack(f"41-decoded-over-a-base-that-says-{name}", only="quantised", levels=(3,), world=decoded_world)
    def _(world: World, said: dict[str, Any] = said) -> Options:
        """Loaders do not decode it, and have other weights below the adapter."""
        (world.base / "config.json").write_text(json.dumps(said))
        decoded_rows(world)
