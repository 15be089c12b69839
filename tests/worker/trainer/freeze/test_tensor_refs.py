"""Every name of a tensor, read past what a module's attributes may say."""

import torch
from torch import nn

from worker.trainer.freeze.tensor_refs import tensor_refs


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(3, 2), nn.Linear(2, 3)
        self.head.weight = self.embedding.weight
        self.again = self.head
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.register_buffer("scale", torch.ones(2))
        self.register_parameter("missing", None)


def test_every_name_once() -> None:
    """A tied tensor has several, a shared module's tensors are under each of its paths, and None has none."""
    model = Tied()
    refs = {ref.name: ref for ref in tensor_refs(model)}
    assert list(refs) == ["mask", "scale", "embedding.weight", "head.weight", "head.bias", "again.weight", "again.bias"]
    assert refs["again.weight"].tensor is refs["embedding.weight"].tensor is model.embedding.weight
    assert (refs["mask"].persistent, refs["scale"].persistent, refs["head.bias"].persistent) == (False, True, True)
    assert (refs["scale"].kind, refs["scale"].path, refs["head.bias"].path) == ("buffer", "", "head")


def test_a_ref_follows_its_name() -> None:
    """It gives the tensor that is there now, and None once there is none."""
    model = Tied()
    ref = next(ref for ref in tensor_refs(model) if ref.name == "head.bias")
    model.head.bias = nn.Parameter(torch.zeros(3))
    assert ref.tensor is model.head.bias
    del model.head.bias
    assert ref.tensor is None
