"""Every mechanism keeps the same bits and trains the same bits."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.worker.trainer.freeze.models import CASES, tied_bert
from tests.worker.trainer.freeze.training import plan_for, train
from worker.trainer.freeze.apply import freeze
from worker.trainer.witness.observe import observe

MECHANISMS = ("requires_grad", "detach", "param_group")


def policy(case: str, mechanism: str) -> dict[str, Any]:
    return {"freeze": list(CASES[case].frozen), "mechanism": mechanism}


def trained(case: str, mechanism: str, **how: Any) -> dict[str, str]:
    """Digests after training, with the frozen ones checked against those before."""
    model = CASES[case].build()
    before = observe(model)
    frozen = train(model, policy(case, mechanism), CASES[case].loss, **how)
    after = observe(model)
    still = {d.name for d in frozen.plan.frozen}
    assert still
    assert {name for name in still if after[name] != before[name]} == set()
    moved = {d.name for d in frozen.plan.trainable if after[d.name] != before[d.name]}
    assert moved, "nothing trained, so nothing was shown"
    return after


@pytest.mark.parametrize("case", CASES)
def test_all_mechanisms_train_the_same_bits(case: str) -> None:
    """Frozen tensors keep their bits, and what trains ends bit-equal whichever mechanism froze the rest."""
    first, *others = (trained(case, mechanism) for mechanism in MECHANISMS)
    assert all(other == first for other in others)


def checkpointed(model: nn.Module, *, reentrant: bool) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.forward = partial(recomputed, layer.forward, reentrant)  # type: ignore[method-assign]
    return model


def recomputed(forward: Callable[..., Tensor], reentrant: bool, x: Tensor, **options: Any) -> Tensor:
    found: Tensor = checkpoint(lambda y: forward(y, **options), x, use_reentrant=reentrant)
    return found


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gradient_checkpointing_of_both_kinds(mechanism: str, reentrant: bool) -> None:
    """Recomputing a frozen layer in the backward pass neither moves it nor changes what the others learn."""
    wrapped = trained("encoder", mechanism, run=partial(checkpointed, reentrant=reentrant))
    assert wrapped == trained("encoder", mechanism)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_compiled_with_frozen_weights(mechanism: str) -> None:
    """torch.compile sees the frozen weights as the mechanism shows them: the same bits with and without it."""
    compiled = partial(torch.compile, backend="aot_eager")
    torch.compiler.reset()
    assert trained("encoder", mechanism, run=compiled) == trained("encoder", mechanism)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_clipping_sees_trainable_tensors_only(mechanism: str) -> None:
    """The gradient norm over the whole model is that over the trainable tensors: frozen ones hold no gradient."""
    model = CASES["encoder"].build()
    frozen = freeze(model, plan_for(model, policy("encoder", mechanism)))
    CASES["encoder"].loss(model, 0).backward()
    everything = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    trainable = torch.nn.utils.get_total_norm([p.grad for p in frozen.parameters() if p.grad is not None])
    assert everything == trainable > 0


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_earlier_layers_still_learn(mechanism: str) -> None:
    """Gradient flows through a frozen layer to the ones before it."""
    model = CASES["encoder"].build()
    freeze(model, plan_for(model, policy("encoder", mechanism)))
    CASES["encoder"].loss(model, 0).backward()
    weight = model.get_parameter("0.weight")
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_requires_grad_attribute_per_mechanism() -> None:
    """Only the requires_grad mechanism shows in the attribute of the module's own tensor."""
    seen = {}
    for mechanism in MECHANISMS:
        model = CASES["encoder"].build()
        freeze(model, plan_for(model, policy("encoder", mechanism)))
        seen[mechanism] = dict(model.named_parameters())["1.layers.0.linear1.weight"].requires_grad
    assert seen == {"requires_grad": False, "detach": True, "param_group": True}


def test_at_most_one_frozen_gradient_is_alive() -> None:
    """param_group drops each gradient as it is accumulated, so frozen tensors cost no gradient memory."""
    model = CASES["encoder"].build()
    freeze(model, plan_for(model, policy("encoder", "param_group")))
    alive: list[int] = []
    layer = model.get_submodule("1.layers.0")
    for parameter in layer.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in layer.parameters()))
        )
    CASES["encoder"].loss(model, 0).backward()
    assert alive == [0] * len(list(layer.parameters()))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_names_and_ties_stay(mechanism: str) -> None:
    """state_dict, named_parameters and the tied objects are those of the plain model, and a checkpoint loads."""
    plain, model = tied_bert(), tied_bert()
    freeze(model, plan_for(model, policy("bert", mechanism)))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    decoder = model.get_submodule("cls.predictions.decoder")._parameters["weight"]
    assert decoder is model.get_submodule("bert.embeddings.word_embeddings")._parameters["weight"]
    model.load_state_dict(plain.state_dict())
    assert observe(model) == observe(plain)


def test_a_deep_copy_stays_detached() -> None:
    """A copy (an EMA, say) computes the same and lets no gradient reach its frozen weights."""
    model = CASES["encoder"].build()
    freeze(model, plan_for(model, policy("encoder", "detach")))
    copied = copy.deepcopy(model)
    CASES["encoder"].loss(copied, 0).backward()
    assert observe(copied) == observe(model)
    assert all(p.grad is None for p in copied.get_submodule("1.layers.0").parameters())


def test_removed_gives_the_plain_model_back() -> None:
    """Within removed() types, get_parameter and pickling are those of the model as built; then detach holds again."""
    model = CASES["encoder"].build()
    frozen = freeze(model, plan_for(model, policy("encoder", "detach")))
    linear = model.get_submodule("1.layers.0.linear1")
    assert type(linear) is not nn.Linear
    assert not linear.weight.requires_grad
    with frozen.removed() as plain:
        assert type(linear) is nn.Linear
        assert plain.get_parameter("1.layers.0.linear1.weight") is linear.weight
    assert not linear.weight.requires_grad


def test_equal_layers_share_one_patched_class() -> None:
    """A stack of equal frozen layers is still of one class, so that torch.compile does not compile each by itself."""
    model = CASES["encoder"].build()
    freeze(model, plan_for(model, {"freeze": ["1.**"], "mechanism": "detach"}))
    first, second = (model.get_submodule(f"1.layers.{number}.linear1") for number in (0, 1))
    assert type(first) is type(second)
    assert type(first).__name__ == "Linear"


def test_an_audit_enforces_nothing() -> None:
    """With enforce false everything trains, also what is declared frozen."""
    model = CASES["encoder"].build()
    before = observe(model)
    train(model, policy("encoder", "detach") | {"enforce": False}, lambda m, s: CASES["encoder"].loss(m, s), steps=1)
    after = observe(model)
    assert all(after[name] != before[name] for name in after)
