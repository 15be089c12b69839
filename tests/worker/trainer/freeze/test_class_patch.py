"""A patched module reads its weights in another way, and is otherwise the module that it was."""

import copy
import pickle

import torch
from torch import nn

from worker.trainer.freeze.class_patch import ClassPatch, patch_class, unpatch_class


def test_a_detached_leaf_is_read_without_its_gradient() -> None:
    """The weight takes part in the forward pass and gets no gradient; names and the object itself stay."""
    module = nn.Linear(2, 2)
    weight, names = module.weight, list(module.state_dict())
    patch_class(module, ClassPatch(detached={"weight"}))
    assert isinstance(module, nn.Linear) and type(module).__name__ == "Linear"
    assert not module.weight.requires_grad and module.weight.data_ptr() == weight.data_ptr()
    assert module._parameters["weight"] is weight and list(module.state_dict()) == names
    module(torch.ones(1, 2)).sum().backward()
    assert weight.grad is None and module.bias.grad is not None


def test_equal_patches_of_equal_modules_are_one_class() -> None:
    """torch.compile then sees one class for a stack of layers; another patch is another class."""
    first, second, other = nn.Linear(2, 2), nn.Linear(3, 3), nn.Linear(2, 2)
    for module in (first, second):
        patch_class(module, ClassPatch(detached={"weight", "bias"}))
    patch_class(other, ClassPatch(detached={"weight"}))
    assert type(first) is type(second) and type(first) is not type(other)


def test_a_patch_replaces_the_one_before_and_can_be_taken_off() -> None:
    """Afterwards the module is of its own class again, which pickles."""
    module = nn.Linear(2, 2)
    patch_class(module, ClassPatch(detached={"weight"}))
    patch_class(module, ClassPatch(detached={"bias"}))
    assert module.weight.requires_grad and not module.bias.requires_grad
    unpatch_class(module)
    unpatch_class(module)
    assert type(module) is nn.Linear
    assert torch.equal(pickle.loads(pickle.dumps(module)).weight, module.weight)


def test_a_pinned_module_stays_in_eval() -> None:
    """The modules beside it follow `train()`; its statistics do not follow what passes through."""
    dropout, norm = nn.Dropout(), nn.BatchNorm1d(2)
    module = nn.Sequential(dropout, norm)
    patch_class(norm, ClassPatch(eval=True))
    assert not norm.training
    module.train()
    assert dropout.training and not norm.training
    module(torch.randn(8, 2))
    assert norm.num_batches_tracked == 0


def test_an_inert_module_passes_its_input_through() -> None:
    module = nn.Dropout(1.0)
    patch_class(module, ClassPatch(inert=True))
    x = torch.ones(3)
    assert module.train()(x) is x


def test_a_recurrent_layer_reads_its_flat_weights_as_attributes() -> None:
    """torch keeps a list of them, which would carry gradients past the patch."""
    module = nn.LSTM(2, 2)
    patch_class(module, ClassPatch(detached={"weight_ih_l0"}))
    module(torch.ones(1, 1, 2))[0].sum().backward()
    assert module._parameters["weight_ih_l0"].grad is None
    assert module.weight_hh_l0.grad is not None


def test_a_copy_is_patched_as_well() -> None:
    """An average of weights is made by deepcopy."""
    module = nn.Linear(2, 2)
    patch_class(module, ClassPatch(detached={"weight"}))
    assert not copy.deepcopy(module).weight.requires_grad
