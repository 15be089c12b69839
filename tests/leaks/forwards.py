"""Leaks in a forward pass: statistics, renormalisation, observers, hidden writes. Rows F1 to F12."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from app.errors import PolicyError
from tests.leaks.gauntlet import STATISTICS, Net, Watch, at, batch, leak, net, norm_net, sgd, table_net, train
from worker.trainer.witness import Violation

Found = Iterable[Violation]


@leak("F1", moved=STATISTICS)
def batch_norm(watch: Watch) -> Found:
    """BatchNorm's statistics follow the data in training mode, frozen weights and no_grad or not."""
    model = norm_net(nn.BatchNorm1d(8))
    with watch(model, freeze=["norm.**"]) as w:
        with torch.no_grad():
            model(batch(model, 0))
        return train(model, sgd(model.head.parameters()), w)


@leak("F1b", moved=STATISTICS, step=2)
def eval_undone(watch: Watch) -> Found:
    """The norm is put in eval once; the next epoch's model.train() undoes it."""
    model = norm_net(nn.BatchNorm1d(8))
    model.train()
    model.norm.eval()
    with watch(model, freeze=["norm.**"]) as w:
        return train(model, sgd(model.head.parameters()), w, after_step=at(1, model.train))


@leak("F1d", moved=STATISTICS)
def counted_twice(watch: Watch) -> Found:
    """Recomputing the forward pass counts each batch twice."""
    model = norm_net(nn.BatchNorm1d(8))
    optimizer = sgd(model.head.parameters())
    with watch(model, freeze=["norm.**"]) as w:
        for step in range(1, 3):
            x = batch(model, step).requires_grad_()
            model.head(checkpoint(model.norm, x, use_reentrant=False)).square().sum().backward()
            optimizer.step()
            w.step()
        assert model.norm.num_batches_tracked == 4
        return w.report().violations


@leak("F1f", moved=["norm.running_mean", "norm.running_var"], step=2)
def momentum_zero(watch: Watch) -> Found:
    """momentum=0 seems to hold the statistics; a batch with an infinity makes them NaN."""
    model = norm_net(nn.BatchNorm1d(8, momentum=0.0))
    optimizer = sgd(model.head.parameters())
    with watch(model, freeze=["norm.running_mean", "norm.running_var"]) as w:
        for step in range(1, 4):
            x = batch(model, step)
            model(x if step != 2 else x.fill_(float("inf"))).nan_to_num().sum().backward()
            optimizer.step()
            w.step()
        return w.report().violations


@leak("F2", moved=["table.weight"])
def max_norm(watch: Watch) -> Found:
    """An embedding with max_norm rewrites the rows that it reads, in eval and under no_grad too."""
    model = table_net(max_norm=0.1).eval()
    with watch(model, freeze=["table.weight"]) as w:
        for step in range(1, 3):
            with torch.no_grad():
                model(batch(model, step))
            w.step()
        return w.report().violations


@leak("F3", moved=["body.parametrizations.weight.0._u", "body.parametrizations.weight.0._v"])
def spectral_norm(watch: Watch) -> Found:
    """Reading `.weight` runs a power iteration."""
    model = net(frozen=True)
    torch.nn.utils.parametrizations.spectral_norm(model.body)
    with watch(model, freeze=["body.**"]) as w:
        for _ in range(2):
            assert model.body.weight.shape == (8, 8)
            w.step()
        return w.report().violations


@leak("F4", moved=["body.weight"], step=2)
def weight_norm(watch: Watch) -> Found:
    """weight_norm replaces the tensor by two others: the name is gone."""
    model = net(frozen=True)

    def replace() -> None:
        torch.nn.utils.parametrizations.weight_norm(model.body)

    with watch(model, freeze=["body.**"]) as w:
        return train(model, sgd(model.head.parameters()), w, after_step=at(2, replace))


class Clamping(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.body.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


@leak("F5", moved=["body.weight"])
def data_clamped_in_forward(watch: Watch) -> Found:
    """`.data.clamp_` in forward does not move the version counter."""
    torch.manual_seed(0)
    model = Clamping()
    model.body.requires_grad_(False)
    with watch(model, freeze=["body.**"]) as w:
        return train(model, sgd(model.head.parameters()), w)


@leak("F6", moved=["norm.min_val", "norm.max_val"])
def observer(watch: Watch) -> Found:
    """A quantisation observer counts in eval as well."""
    model = norm_net(torch.ao.quantization.observer.MinMaxObserver()).eval()
    model(batch(model, 0))
    with watch(model, freeze=["norm.min_val", "norm.max_val"]) as w:
        for step in range(1, 3):
            model(batch(model, step) * 10 * step)
            w.step()
        return w.report().violations


@leak("F7", moved=["norm.expert_bias"])
def expert_bias(watch: Watch) -> Found:
    """Load balancing of experts moves a bias by a hook on the optimizer, without any gradient."""
    model = norm_net(nn.Identity())
    model.norm.register_buffer("expert_bias", torch.zeros(4))
    optimizer = sgd(model.head.parameters())
    optimizer.register_step_post_hook(lambda *_: model.norm.expert_bias.add_(0.001))  # type: ignore[arg-type]
    with watch(model, freeze=["norm.expert_bias"]) as w:
        return train(model, optimizer, w)


@leak("F8", moved=["rope.inv_freq"], step=2)
def dynamic_rope(watch: Watch) -> Found:
    """Dynamic rope puts new frequencies in place for an input longer than it was made for."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=8, rope_parameters=rope)
    model = nn.ModuleDict({"rope": LlamaRotaryEmbedding(config), "head": nn.Linear(8, 2)})
    with watch(model, freeze=["rope.inv_freq"]) as w:
        for length in (4, 16, 4):
            model["rope"](torch.zeros(1, length, 8), torch.arange(length)[None])
            w.step()
        return w.report().violations


@leak("F9", moved=["weight"], step=None)
def lazy(watch: Watch) -> Found:
    """A lazy parameter has no before: the audit refuses it by name instead of claiming anything."""
    with pytest.raises(PolicyError, match=r"'weight' is a lazy parameter"):
        watch(nn.LazyLinear(2), freeze=["weight"])
    return [Violation("weight", 0, 0, None, "no bytes before the first batch")]


@leak("F10", moved=["norm.running_mean", "norm.running_var"])
def instance_norm(watch: Watch) -> Found:
    """InstanceNorm with tracking counts like BatchNorm."""
    model = norm_net(nn.InstanceNorm1d(6, track_running_stats=True))
    with watch(model, freeze=["norm.**"]) as w:
        return train(model, sgd(model.head.parameters()), w)


@torch.library.custom_op("leak_gauntlet::peek", mutates_args=())
def peek(weight: Tensor) -> Tensor:
    """Declares that it writes nothing, and writes."""
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = weight.detach().numpy()
    array += np.float32(1)
    return weight.new_zeros(())


@leak("F12", moved=["body.weight"], step=2)
def hidden_mutation(watch: Watch) -> Found:
    """A custom operator whose schema hides its write: neither the counter nor the dispatcher knows."""
    model = net(frozen=True)
    with watch(model, freeze=["body.**"]) as w:
        return train(model, sgd(model.head.parameters()), w, before_step=at(2, lambda: peek(model.body.weight)))
