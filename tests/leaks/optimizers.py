"""Leaks through what updates weights: groups, decay, momentum, schedules, masks, copies. Rows O1 to O22."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from tests.leaks.gauntlet import (
    BODY,
    STATISTICS,
    Watch,
    at,
    control,
    from_step_plan,
    leak,
    net,
    norm_net,
    rows_plan,
    sgd,
    table_net,
    train,
)
from worker.trainer.witness import Violation

Found = Iterable[Violation]
FREEZE = ["body.**"]


@leak("O1", moved=BODY)
def group_option(watch: Watch) -> Found:
    """The group key `requires_grad: False` is accepted and ignored."""
    model = net()
    optimizer = sgd([{"params": model.body.parameters(), "requires_grad": False}, {"params": model.head.parameters()}])
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w)


@leak("O2", moved=BODY)
def decay_with_zero_gradient(watch: Watch) -> Found:
    """Frozen by attribute with gradients that are zero, not None: weight decay goes on."""
    model = net(frozen=True)
    for parameter in model.body.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w, set_to_none=False)


def momentum_from_before(watch: Watch, *, set_to_none: bool) -> Found:
    model = net()
    optimizer = sgd(model.parameters(), momentum=0.9)
    with watch(model, plan=from_step_plan(model, 2)) as w:
        freeze = at(2, lambda: model.body.requires_grad_(False))
        return train(model, optimizer, w, steps=4, after_step=freeze, set_to_none=set_to_none)


@leak("O3", moved=BODY, step=3)
def freeze_with_momentum(watch: Watch) -> Found:
    """Frozen after step 2, momentum from before and zeroed gradients: step 3 moves it."""
    return momentum_from_before(watch, set_to_none=False)


@control("O3 with set_to_none")
def freeze_without_gradients(watch: Watch) -> Found:
    """The same with gradients at None: the optimizer skips it."""
    return momentum_from_before(watch, set_to_none=True)


@leak("O3d", moved=BODY)
def freeze_between_backward_and_step(watch: Watch) -> Found:
    """The gradient is there already when the attribute is set."""
    model = net()
    optimizer = sgd(model.parameters())
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w, before_step=at(1, lambda: model.body.requires_grad_(False)))


def masked(gradient: Tensor) -> Tensor:
    """The gradient of the last two rows only."""
    mask = torch.zeros(8, 1)
    mask[6:] = 1
    return gradient * mask


@leak("O4", moved=["table.weight"])
def row_mask_with_decay(watch: Watch) -> Found:
    """A gradient mask on rows, under AdamW with weight decay."""
    model = table_net()
    model.table.weight.register_hook(masked)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    with watch(model, plan=rows_plan(model, "table.weight", [[0, 6]])) as w:
        return train(model, optimizer, w)


@leak("O5", moved=["table.weight"])
def row_mask_with_old_state(watch: Watch) -> Found:
    """A gradient mask on rows that Adam has moments of."""
    model = table_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    model(torch.arange(8)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.table.weight.register_hook(masked)
    with watch(model, plan=rows_plan(model, "table.weight", [[0, 6]])) as w:
        return train(model, optimizer, w)


class Detached(nn.Module):
    """Its body takes part through detach()."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.body.weight.detach(), self.body.bias.detach())
        out: Tensor = self.head(y)
        return out


def materialise(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@leak("O6", moved=BODY)
def detach_with_materialised_gradients(watch: Watch) -> Found:
    """detach() in forward, missing gradients filled with zeros (as wrappers do), decay."""
    torch.manual_seed(0)
    model = Detached()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w, before_step=lambda step: materialise(model))


@control("O6 with gradients at None")
def detach_alone(watch: Watch) -> Found:
    """detach() in forward and gradients at None: AdamW skips it."""
    torch.manual_seed(0)
    model = Detached()
    with watch(model, freeze=FREEZE) as w:
        return train(model, torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1), w)


class FillingMuon(torch.optim.SGD):
    """As the first published Muon: a missing gradient counts as zeros."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        super().step(closure)


@leak("O7", moved=BODY)
def optimizer_fills_missing_gradients(watch: Watch) -> Found:
    """An optimizer that writes zeros where there is no gradient, then decays."""
    model = net(frozen=True)
    with watch(model, freeze=FREEZE) as w:
        return train(model, FillingMuon(model.parameters(), lr=0.05, weight_decay=0.1), w)


@control("O7 with torch's Muon")
def muon_skips(watch: Watch) -> Found:
    """torch's own Muon leaves parameters without gradient alone."""
    model = net(frozen=True)
    optimizer = torch.optim.Muon([model.body.weight, model.head.weight], lr=0.05, weight_decay=0.1)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w)


@leak("O8", moved=["body.weight"])
def lbfgs_and_negative_zero(watch: Watch) -> Found:
    """LBFGS adds zero to what has no gradient: -0.0 becomes 0.0."""
    model = net(frozen=True)
    model.body.weight.data[0] = -0.0
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=6)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 8)).square().sum()
        loss.backward()
        return loss

    with watch(model, freeze=FREEZE) as w:
        for _ in range(2):
            optimizer.step(closure)
            w.step()
        return w.report().violations


@leak("O9", moved=BODY)
def stepped_by_a_backward_hook(watch: Watch) -> Found:
    """In no optimizer group, but a hook in the backward pass applies the gradient."""
    model = net()

    def apply(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.data.sub_(parameter.grad, alpha=0.01)

    for parameter in model.body.parameters():
        parameter.register_post_accumulate_grad_hook(apply)
    with watch(model, freeze=FREEZE) as w:
        return train(model, sgd(model.head.parameters()), w)


def zero_rate(model: Any, **options: Any) -> torch.optim.SGD:
    return sgd([{"params": model.body.parameters(), "lr": 0.0}, {"params": model.head.parameters()}], **options)


@leak("O11", moved=BODY)
def one_cycle(watch: Watch) -> Found:
    """A group with lr=0 under OneCycleLR, which sets every group's rate."""
    model = net()
    optimizer = zero_rate(model, momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w)


@leak("O12", moved=BODY, step=2)
def cosine_floor(watch: Watch) -> Found:
    """A group with lr=0 under a cosine schedule with a floor: it rises to the floor after step 1."""
    model = net()
    optimizer = zero_rate(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.01)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w, after_step=lambda step: schedule.step())


@leak("O13", moved=BODY, step=2)
def optimizer_state_brings_its_rate(watch: Watch) -> Found:
    """Loading an optimizer's state restores the old learning rate of the group."""
    model = net()
    old = sgd([{"params": model.body.parameters()}, {"params": model.head.parameters()}]).state_dict()
    optimizer = zero_rate(model)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w, after_step=at(1, lambda: optimizer.load_state_dict(old)))


@leak("O14", moved=BODY, step=2)
def infinite_gradient_at_rate_zero(watch: Watch) -> Found:
    """Zero times infinity is NaN."""
    model = net()

    def blow_up() -> None:
        for parameter in model.body.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(float("inf"))

    with watch(model, freeze=FREEZE) as w:
        return train(model, zero_rate(model), w, before_step=at(2, blow_up))


@leak("O14 negative zero", moved=["body.weight"])
def negative_zero_at_rate_zero(watch: Watch) -> Found:
    """-0.0 plus 0.0 is 0.0: an ordinary gradient at rate zero flips the sign bit."""
    model = net()
    model.body.weight.data[0] = -0.0
    with watch(model, freeze=FREEZE) as w:
        return train(model, zero_rate(model), w)


@leak("O15", moved=["body.weight"], step=2)
def averaged_copy(watch: Watch) -> Found:
    """A moving average of a weight that never moves rounds away from it: the exported copy is another tensor."""
    model = net(frozen=True)
    average = AveragedModel(model, avg_fn=lambda mean, value, count: 0.7 * mean + 0.3 * value)
    with watch(average.module, freeze=["body.weight"]) as w:
        return train(model, sgd(model.head.parameters()), w, after_step=lambda step: average.update_parameters(model))


@leak("O16", moved=STATISTICS, step=None)
def statistics_recomputed(watch: Watch) -> Found:
    """swa_utils.update_bn starts the statistics again from the data."""
    model = norm_net(nn.BatchNorm1d(8)).eval()
    with watch(model, freeze=["norm.**"]) as w:
        train(model, sgd(model.head.parameters()), w)
        update_bn([torch.randn(6, 8), torch.randn(6, 8)], model)
        return w.check()


@leak("O17", moved=BODY)
def flat_master_copy(watch: Watch) -> Found:
    """One flat fp32 vector holds all weights, is decayed as a whole and written back through `.data`."""
    model = net(frozen=True)
    parameters = list(model.parameters())
    master = nn.Parameter(torch.cat([p.data.flatten() for p in parameters]))
    optimizer = torch.optim.AdamW([master], lr=0.05, weight_decay=0.1)
    with watch(model, freeze=FREEZE) as w:
        for step in range(1, 4):
            model(torch.full((2, 8), float(step))).square().sum().backward()
            master.grad = torch.cat(
                [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
            )
            optimizer.step()
            model.zero_grad()
            for p, part in zip(parameters, master.detach().split([p.numel() for p in parameters]), strict=True):
                p.data.copy_(part.view_as(p))
            w.step()
        return w.report().violations


@leak("O19", moved=["body.weight"])
def clamp_over_everything(watch: Watch) -> Found:
    """Weight clipping after each step, over all parameters."""
    model = net(frozen=True)
    model.body.weight.data[0, 0] = 5.0

    def clamp(step: int) -> None:
        for parameter in model.parameters():
            parameter.data.clamp_(-1, 1)

    with watch(model, freeze=["body.weight"]) as w:
        return train(model, sgd(model.head.parameters()), w, after_step=clamp)


@leak("O20", moved=["table.weight"])
def padding_row_under_decay(watch: Watch) -> Found:
    """padding_idx gives the row no gradient; decay moves it all the same."""
    model = table_net(padding_idx=0)
    model.table.weight.data[0] = 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    with watch(model, plan=rows_plan(model, "table.weight", [[0, 1]])) as w:
        return train(model, optimizer, w)


@leak("O21", moved=["body.weight"])
def sharpness_aware(watch: Watch) -> Found:
    """SAM goes up by e and down by e; in floating point that does not come back."""
    model = net()

    def up_and_down(step: int) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            e = 0.05 * parameter.grad / parameter.grad.norm()
            parameter.data.add_(e).sub_(e)

    with watch(model, freeze=["body.weight"]) as w:
        return train(model, sgd(model.head.parameters()), w, before_step=up_and_down)


@leak("O22", moved=["table.weight"], step=2)
def mask_times_infinity(watch: Watch) -> Found:
    """A mask by multiplication lets an infinite gradient through as NaN."""
    model = table_net()

    def blow_up() -> None:
        assert model.table.weight.grad is not None
        model.table.weight.grad = masked(torch.full_like(model.table.weight, float("inf")))

    model.table.weight.register_hook(masked)
    with watch(model, plan=rows_plan(model, "table.weight", [[0, 6]])) as w:
        return train(model, sgd(model.parameters()), w, before_step=at(2, blow_up))
