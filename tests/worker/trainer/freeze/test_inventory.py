"""The list of a live model's tensors: names, ties, types, buffers, dtypes."""

import pytest
import torch
from torch import nn

from app.errors import PolicyError
from tests.worker.trainer.freeze.models import convnet, tied_bert
from worker.trainer.freeze.inventory import tensors
from worker.trainer.freeze.tensor_refs import tensor_refs


def test_a_tied_weight_is_one_tensor_with_two_names() -> None:
    """The decoder of a masked language model is its embedding: one entry, the first name its own."""
    found = {tensor.name: tensor for tensor in tensors(tied_bert())}
    assert found["bert.embeddings.word_embeddings.weight"].aliases == ("cls.predictions.decoder.weight",)
    assert "cls.predictions.decoder.weight" not in found


def test_every_live_name_is_listed_once() -> None:
    """Names and aliases together are the model's parameters and buffers, non-persistent ones too."""
    model = tied_bert()
    listed = [name for tensor in tensors(model) for name in (tensor.name, *tensor.aliases)]
    live = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    assert sorted(listed) == sorted(live)
    assert {t.name for t in tensors(model) if not t.persistent} == {
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
    }


def test_module_types_go_from_the_root_to_the_owner() -> None:
    """One class name per dotted prefix of the owner's path."""
    found = {tensor.name: tensor for tensor in tensors(tied_bert())}
    layer_norm = found["bert.encoder.layer.0.output.LayerNorm.weight"]
    assert layer_norm.module_types[:2] == ("BertForMaskedLM", "BertModel")
    assert layer_norm.module_types[-1] == "LayerNorm"
    assert len(layer_norm.module_types) == layer_norm.name.count(".") + 1


def test_buffers_carry_their_own_dtype_and_shape() -> None:
    """BatchNorm's counter is a 64-bit integer without dimensions."""
    found = {tensor.name: tensor for tensor in tensors(convnet())}
    assert (found["1.num_batches_tracked"].kind, found["1.num_batches_tracked"].dtype) == ("buffer", "I64")
    assert found["1.num_batches_tracked"].shape == ()
    assert found["0.weight"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize(
    ("dtype", "code"), [(torch.bfloat16, "BF16"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.uint16, "U16")]
)
def test_dtypes_have_their_safetensors_codes(dtype: torch.dtype, code: str) -> None:
    """Also dtypes that numpy does not know."""
    model = nn.Module()
    model.register_buffer("x", torch.zeros(2, dtype=dtype))
    assert [tensor.dtype for tensor in tensors(model)] == [code]


def test_the_meta_device_gives_the_same_list() -> None:
    """A model can be described without memory for its weights, ties included."""
    with torch.device("meta"):
        on_meta = tensors(tied_bert())
    assert on_meta == tensors(tied_bert())


def test_views_of_one_buffer_are_ties_only_when_they_coincide() -> None:
    """Neighbours in a flat buffer are two tensors; the same view twice is one."""
    flat = torch.zeros(8)
    model = nn.Module()
    model.a, model.b = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])
    model.c = nn.Parameter(flat[:4])
    assert {t.name: t.aliases for t in tensors(model)} == {"a": ("c",), "b": ()}


def test_a_shared_module_lists_its_tensors_under_both_paths() -> None:
    """Sharing a module is a tie of all that is in it."""
    shared = nn.Linear(2, 2)
    found = {t.name: t.aliases for t in tensors(nn.Sequential(shared, nn.ReLU(), shared))}
    assert found == {"0.weight": ("2.weight",), "0.bias": ("2.bias",)}


def test_a_lazy_parameter_is_refused() -> None:
    """A lazy module has no bytes before the first batch, so nothing can be claimed of it."""
    with pytest.raises(PolicyError, match=r"'weight' is a lazy parameter"):
        tensors(nn.LazyLinear(3))


def test_slots_read_the_registered_tensor() -> None:
    """A slot gives the registered object itself, and None once it is gone."""
    model = nn.Linear(2, 2)
    weight = next(slot for slot in tensor_refs(model) if slot.name == "weight")
    assert weight.tensor is model.weight
    del model.weight
    assert weight.tensor is None
