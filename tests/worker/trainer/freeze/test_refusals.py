"""What cannot hold is refused before the first step, with what would work."""

from typing import Any

import pytest
import torch
from torch import nn

from app.errors import PolicyError
from tests.worker.trainer.freeze.models import tied_bert
from tests.worker.trainer.freeze.training import plan_for
from worker.trainer.freeze.apply import freeze, refuse
from worker.trainer.freeze.refusals import writes_without_gradient

POLICY = {"freeze": ["0.**"]}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))


def refusal(model: nn.Module, optimizer: torch.optim.Optimizer, policy: dict[str, Any] = POLICY) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        refuse(model, plan_for(model, policy), optimizer)
    return caught.value


class ZeroFilling(torch.optim.SGD):
    """Treats a missing gradient as zeros, as several published optimizers do."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        super().step(closure)


class Picky(ZeroFilling):
    """Cannot be built from its defaults."""

    def __init__(self, params: Any, *, model: nn.Module) -> None:
        super().__init__(params, lr=0.1)
        self.model = model


def test_a_plain_optimizer_over_what_trains_is_accepted() -> None:
    """The ordinary case: torch's AdamW over Frozen.parameters()."""
    model = net()
    plan = plan_for(model, POLICY)
    refuse(model, plan, torch.optim.AdamW(freeze(model, plan).parameters()))


def test_the_articles_third_example_is_refused() -> None:
    """A group option `requires_grad` is named with its path in the request, and the mechanism that works."""
    model = net()
    optimizer = torch.optim.SGD([{"params": model[1].parameters(), "requires_grad": False}], lr=0.1)
    error = refusal(model, optimizer)
    assert error.param == "hyperparameters.optimizer.groups[0].options.requires_grad"
    assert '"mechanism": "param_group"' in error.message


def test_an_unknown_group_option_names_the_nearest_real_one() -> None:
    """A typo in an option would be ignored by the optimizer as well."""
    model = net()
    optimizer = torch.optim.AdamW([{"params": model[1].parameters(), "weight_decai": 0.0}])
    assert "did you mean 'weight_decay'?" in refusal(model, optimizer).message


def test_what_schedulers_write_into_groups_is_no_option() -> None:
    """torch's own schedulers add keys such as initial_lr and max_lr; a warm-up may begin at zero."""
    model = net()
    plan = plan_for(model, POLICY)
    optimizer = torch.optim.AdamW(freeze(model, plan).parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    refuse(model, plan, optimizer)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    refuse(model, plan, optimizer)


def test_a_zero_learning_rate_is_no_freeze() -> None:
    """Schedules raise it, an infinite gradient makes NaN, -0.0 flips."""
    model = net()
    weight, bias = model.get_parameter("1.weight"), model.get_parameter("1.bias")
    groups: list[dict[str, Any]] = [{"params": [bias], "lr": 0.0}, {"params": [weight]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    error = refusal(model, optimizer)
    assert error.param == "hyperparameters.optimizer.groups[0].options.lr"


def test_a_frozen_tensor_in_a_group_is_refused() -> None:
    """An optimizer built from model.parameters() instead of what the freeze hands out."""
    model = net()
    assert "'0.weight' is in the optimizer's group 0" in refusal(model, torch.optim.SGD(model.parameters())).message


def test_lbfgs_is_refused() -> None:
    """It steps one vector of all weights."""
    model = net()
    assert "LBFGS" in refusal(model, torch.optim.LBFGS(model[1].parameters())).message


def test_an_optimizer_that_writes_without_gradients_is_refused() -> None:
    """Found by trying it on two small matrices, not by name; torch's own do not do it."""
    model = net()
    optimizer = ZeroFilling(model[1].parameters(), lr=0.1, weight_decay=0.1)
    assert "ZeroFilling writes to parameters that have no gradient" in refusal(model, optimizer).message
    assert not writes_without_gradient(torch.optim.AdamW(model[1].parameters()))
    assert not writes_without_gradient(torch.optim.Muon([model.get_parameter("1.weight")]))


def test_trying_an_optimizer_leaves_randomness_alone() -> None:
    """The trial must not change what the run draws."""
    model = net()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    writes_without_gradient(torch.optim.AdamW(model.parameters()))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_optimizer_that_cannot_be_tried_is_accepted() -> None:
    """Frozen tensors are in none of its groups, so it has nothing of theirs to write to."""
    model = net()
    plan = plan_for(model, POLICY)
    refuse(model, plan, Picky(freeze(model, plan).parameters(), model=model))


def test_foreign_hooks_are_refused_where_they_could_write() -> None:
    """On the optimizer, on any gradient, on a module with frozen tensors; each is named with its place."""
    model = net()
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    handles = [
        optimizer.register_step_post_hook(lambda *_: None),
        model[1].weight.register_post_accumulate_grad_hook(lambda _: None),
        model[0].register_forward_hook(lambda *_: None),
    ]
    for handle, place in zip(
        handles, ("on the optimizer", "the gradient of '1.weight'", "the module '0'"), strict=True
    ):
        assert place in refusal(model, optimizer).message
        handle.remove()
    model[1].register_forward_hook(lambda *_: None)
    refuse(model, plan_for(model, POLICY), optimizer)


def test_memory_shared_with_a_trained_tensor_is_refused() -> None:
    """Two views of one buffer that overlap without being the same: a trained write would reach the frozen one."""
    flat = torch.zeros(6)
    model = nn.ParameterDict({"a": nn.Parameter(flat[:4]), "b": nn.Parameter(flat[2:])})
    optimizer = torch.optim.SGD([model["b"]], lr=0.1)
    assert "the frozen 'a' shares memory with 'b'" in refusal(model, optimizer, {"freeze": ["a"]}).message


def test_neighbours_in_a_flat_buffer_are_fine() -> None:
    """Adjacent views share a storage, not bytes."""
    flat = torch.zeros(6)
    model = nn.ParameterDict({"a": nn.Parameter(flat[:3]), "b": nn.Parameter(flat[3:])})
    refuse(model, plan_for(model, {"freeze": ["a"]}), torch.optim.SGD([model["b"]], lr=0.1))


def test_reentrant_checkpointing_behind_frozen_embeddings_is_refused() -> None:
    """The layers inside would silently get no gradient, unless the model makes its embeddings' output require it."""
    model = tied_bert()
    policy = {"freeze": ["bert.embeddings.**", "cls.predictions.decoder.weight"]}
    plan = plan_for(model, policy)
    frozen = freeze(model, plan)
    model.activation_checkpointing_enable({"use_reentrant": True})
    optimizer = torch.optim.SGD(frozen.parameters(), lr=0.1)
    refuse(model, plan, optimizer)
    model.disable_input_require_grads()
    assert "'use_reentrant': False" in refusal(model, optimizer, policy).message


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_adapter_initialisations_that_rewrite_the_base_are_refused(how: str) -> None:
    """PiSSA and OLoRA take a part of the base weight away for the adapter to add."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"], init_lora_weights=how))
    policy = {"train": ["**.lora_A.**", "**.lora_B.**"]}
    error = refusal(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), policy)
    assert error.param == "model.adapter.init_lora_weights"


def test_an_adapter_that_trains_frozen_biases_is_refused() -> None:
    """bias='all' and a policy that freezes the base contradict each other."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"], bias="all"))
    policy = {"train": ["**.lora_A.**", "**.lora_B.**"]}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert "bias='all'" in refusal(model, optimizer, policy).message


def test_an_audit_refuses_nothing() -> None:
    """Declared without enforcing: the run shows what moves."""
    model = net()
    refuse(model, plan_for(model, POLICY | {"enforce": False}), torch.optim.LBFGS(model.parameters()))
