"""Results put together again: the same structure as by torch's own, whatever a module returned."""

from __future__ import annotations

import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPoolingAndCrossAttentions
from transformers.utils import ModelOutput

from worker.trainer.prefix import rebuild
from worker.trainer.prefix.rebuild import rebuilder

Pair = namedtuple("Pair", "first second")
ONE, TWO = torch.zeros(2, 3), torch.ones(2)


@dataclass
class Marked(ModelOutput):
    """An output that does more than others when it is made."""

    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.marked = True


def rebuilt(returned: Any) -> tuple[Any, Any]:
    """By the module and by torch."""
    leaves, spec = tree_flatten(returned)
    tensors = all(isinstance(each, Tensor) for each in leaves)
    return rebuilder(spec, tensors=tensors)(leaves), tree_unflatten(leaves, spec)


def assert_same(one: Any, other: Any) -> None:
    """Of one type, with the same objects under the same names in the same order."""
    assert type(one) is type(other)
    if isinstance(one, ModelOutput):
        assert list(one) == list(other) and list(vars(one)) == list(vars(other))
        assert all(vars(one)[name] is vars(other)[name] for name in vars(one))
        assert all(a is b for a, b in zip(one.values(), other.values(), strict=True))
        assert all(a is b for a, b in zip(one.to_tuple(), other.to_tuple(), strict=True))
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    else:
        assert one is other


@pytest.mark.parametrize(
    "returned",
    [
        ONE,
        (ONE, TWO),
        [ONE],
        Pair(ONE, TWO),
        BaseModelOutput(last_hidden_state=ONE),
        BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=ONE, pooler_output=TWO),
        BaseModelOutputWithPoolingAndCrossAttentions(pooler_output=TWO),
    ],
)
def test_a_structure_is_the_one_that_torch_makes(returned: Any) -> None:
    assert_same(*rebuilt(returned))


def test_fields_that_were_set_in_another_order_are_in_the_order_of_the_type() -> None:
    output = BaseModelOutputWithPoolingAndCrossAttentions(pooler_output=TWO)
    output.last_hidden_state = ONE
    assert list(output) == ["pooler_output", "last_hidden_state"]
    ours, torchs = rebuilt(output)
    assert list(ours) == list(torchs) == ["last_hidden_state", "pooler_output"]


def test_an_output_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made without its constructor, each is an object of its own: read, set, indexed and pickled as others."""
    monkeypatch.setattr(rebuild, "tree_unflatten", None)
    leaves, spec = tree_flatten(BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=ONE, pooler_output=TWO))
    make = rebuilder(spec, tensors=True)
    first, second = make(leaves), make(leaves)
    first.hidden_states = (ONE,)
    assert first[0] is ONE and first["pooler_output"] is TWO and first.attentions is None
    assert list(first) == ["last_hidden_state", "pooler_output", "hidden_states"]
    assert second.hidden_states is None and len(second) == 2
    assert torch.equal(pickle.loads(pickle.dumps(second)).pooler_output, TWO)


def test_what_is_out_of_the_ordinary_goes_by_torch() -> None:
    """Nested fields, fields that are no tensors, and a type with a constructor of its own."""
    nested, _ = rebuilt(BaseModelOutput(last_hidden_state=ONE, hidden_states=(ONE, TWO)))
    assert nested.hidden_states[1] is TWO
    assert rebuilt(Marked(hidden=ONE))[0].marked
    _, spec = tree_flatten(BaseModelOutput(last_hidden_state=ONE))
    number = rebuilder(spec, tensors=False)([3.0])
    assert vars(number) == vars(tree_unflatten([3.0], spec))
