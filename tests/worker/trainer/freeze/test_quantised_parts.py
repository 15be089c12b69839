"""Scales of quantised weights are seen where bitsandbytes computes with them, under the names of files."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import nn

from worker.trainer.freeze.inventory import tensors
from worker.trainer.freeze.quantised_parts import (
    decoded_weights,
    digest_of,
    follow,
    holds_scales,
    is_quantised,
    lay_out,
    made_weight,
    mark_decoded,
    mark_made,
    scales,
    shape_of,
)
from worker.trainer.freeze.tensor_refs import tensor_refs
from worker.trainer.witness.witness import Witness

bitsandbytes = pytest.importorskip("bitsandbytes")


def layer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "int8":
        made = bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    else:
        made = bitsandbytes.nn.Linear4bit(64, 32, compress_statistics=kind == "nested", quant_type="nf4")
    return nn.Sequential(made.to("cpu"), nn.Linear(32, 2))


def live(model: nn.Module) -> dict[str, Any]:
    return {ref.name: ref.tensor for ref in tensor_refs(model)}


@pytest.mark.parametrize("kind", ["plain", "nested", "int8"])
def test_names_are_those_of_the_state_dict(kind: str) -> None:
    """Every tensor that would be saved has a reference with the same bytes, before and after a forward pass."""
    model = layer(kind)
    for _ in range(2):
        refs = live(model)
        state = model.state_dict()
        assert set(refs) == set(state)
        assert all(torch.equal(refs[name], state[name]) for name in state)
        model.train()(torch.randn(2, 64))
    assert holds_scales(model[0]) and not holds_scales(model[1])
    assert len(list(scales(model))) == len(state) - 4
    again = live(model)
    assert all(again[name] is tensor for name, tensor in refs.items())  # tripwires compare the objects


def test_the_shape_of_the_weight() -> None:
    """4-bit codes are two in a byte; those of 8 bits have the weight's own shape."""
    four, eight = layer("plain"), layer("int8")
    assert shape_of(four[0].weight) == (32, 64) and shape_of(eight[0].weight) is None
    (codes,) = [info for info in tensors(four) if info.name == "0.weight"]
    assert (codes.shape, codes.unpacked, codes.dtype) == ((1024, 1), (32, 64), "U8")


@pytest.mark.parametrize("kind", ["plain", "nested", "int8"])
def test_the_witness_sees_a_scale_move(kind: str) -> None:
    """In any loop: the codes stay, and the weight that they stand for does not."""
    model = layer(kind)
    with Witness(model, freeze=["0.**"], budget=1.0) as witness:
        assert witness.step() == []
        moved = next(tensor for tensor in scales(model) if tensor.is_floating_point())
        moved.mul_(2)
        found = witness.step()
    assert len(found) == 1 and found[0].name.startswith("0.")


def test_an_offset_that_moves_is_a_description_that_moves() -> None:
    """It is in no tensor of the file by itself."""
    model = layer("nested")
    name = "0.weight.quant_state.bitsandbytes__nf4"
    before = model.state_dict()[name].clone()
    assert torch.equal(live(model)[name], before)
    model[0].weight.quant_state.offset.add_(1)
    assert not torch.equal(live(model)[name], before)


def test_a_layout_has_names_and_shapes_without_bytes() -> None:
    """A plain layer on the meta device becomes one with a quantised weight."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 32))
        codes, scale = torch.empty(1024, 1, dtype=torch.uint8), torch.empty(32)
    lay_out(model[0], "Linear4bit", codes, {"weight.absmax": scale}, unpacked=(32, 64))
    assert set(model.state_dict()) == {"0.weight", "0.weight.absmax", "0.bias"}
    infos = {info.name: info for info in tensors(model)}
    assert infos["0.weight"].unpacked == (32, 64) and infos["0.weight.absmax"].kind == "buffer"
    assert infos["0.weight"].module_types == ("Sequential", "Linear4bit")


@pytest.mark.parametrize("kind", ["plain", "nested", "int8"])
def test_what_a_moved_layer_computes_with_is_what_it_holds(kind: str) -> None:
    """torch gives a moved parameter other data and keeps the object; the codes that an 8-bit layer reads follow."""
    model = layer(kind)
    given = torch.randn(2, 64)
    before = model.train()(given)
    model = layer(kind)
    model[0].weight.data = model[0].weight.data.clone()
    follow(model)
    held = getattr(model[0].weight, "CB", model[0].weight)
    assert held.data_ptr() == model[0].weight.data_ptr()
    assert torch.equal(model.train()(given), before)


def test_what_a_made_weight_consists_of() -> None:
    """A quantised one of all tensors of its module but the bias, a decoded one of itself."""
    quantised, decoded, plain = (nn.Linear(2, 2) for _ in range(3))
    mark_made(quantised)
    mark_decoded(decoded, "weight")
    assert [made_weight(quantised, leaf) for leaf in ("weight", "SCB", "bias")] == ["weight", "weight", None]
    assert [made_weight(decoded, leaf) for leaf in ("weight", "weight_scale_inv", "bias")] == ["weight", None, None]
    assert made_weight(plain, "weight") is None
    assert [decoded_weights(each) for each in (quantised, decoded, plain)] == [(), ("weight",), ()]
    assert is_quantised(decoded) and not is_quantised(plain)


def test_the_digest_of_a_weight() -> None:
    """That of its bytes where it is one tensor; of several it is made of theirs."""
    assert digest_of({"weight": "a" * 64}) == "a" * 64
    both = hashlib.sha256(f"{'b' * 64}  SCB\n{'a' * 64}  weight\n".encode()).hexdigest()
    assert digest_of({"weight": "a" * 64, "SCB": "b" * 64}) == both
