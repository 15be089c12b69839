"""Modules that move their own state: kept still by each kind's own means, or refused with the reason."""

import pytest
import torch
from torch import nn
from transformers.models.ibert.quant_modules import QuantAct

from app.errors import PolicyError
from tests.worker.trainer.freeze.models import convnet, convnet_loss
from tests.worker.trainer.freeze.training import plan_for, train
from worker.trainer.freeze.apply import freeze
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness.observe import observe


def moved(model: nn.Module, x: torch.Tensor, *, frozen: str) -> set[str]:
    """Names that changed in three forward passes in training mode under a policy that freezes these."""
    head = nn.Linear(1, 1)
    whole = nn.ModuleDict({"body": model, "head": head})
    freeze(whole, plan_for(whole, {"freeze": [frozen]}))
    before = observe(whole)
    whole.train()
    for _ in range(3):
        model(x)
    after = observe(whole)
    return {name for name in before if after[name] != before[name]}


def spectral(kind: str) -> nn.Module:
    torch.manual_seed(0)
    linear = nn.Linear(4, 4)
    if kind == "parametrization":
        return torch.nn.utils.parametrizations.spectral_norm(linear)
    return torch.nn.utils.spectral_norm(linear)


STATEFUL = {
    "batch norm": (lambda: nn.BatchNorm1d(4), torch.randn(5, 4)),
    "batch norm without parameters": (lambda: nn.BatchNorm1d(4, affine=False), torch.randn(5, 4)),
    "instance norm": (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), torch.randn(5, 4, 6)),
    "spectral norm": (lambda: spectral("hook"), torch.randn(5, 4)),
    "spectral norm as a parametrization": (lambda: spectral("parametrization"), torch.randn(5, 4)),
    "ranges of I-BERT's activations": (lambda: QuantAct(8), torch.randn(5, 4)),
    "embedding with max_norm": (lambda: nn.Embedding(4, 3, max_norm=0.1), torch.tensor([0, 1])),
    "bag with max_norm": (lambda: nn.EmbeddingBag(4, 3, max_norm=0.1), torch.tensor([[0, 1]])),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_forward_pass_moves_nothing_that_is_frozen(kind: str) -> None:
    """Unfrozen, this module moves by itself even without an optimizer; frozen, it does not."""
    build, x = STATEFUL[kind]
    free = build()
    before = observe(free)
    free.train()
    free(x)
    free(x)
    assert observe(free) != before, "the module does not move at all, so the case shows nothing"
    assert moved(build(), x, frozen="body.**") == set()


def test_an_observer_passes_its_input_through() -> None:
    """Observers count even in eval; a frozen one sees nothing."""
    observer = torch.ao.quantization.observer.MinMaxObserver()
    x = torch.randn(3)
    policy = {"rules": [{"action": "freeze", "select": {"kind": "buffer", "name": "body.**"}}]}
    model = nn.ModuleDict({"body": observer, "head": nn.Linear(1, 1)})
    before = observe(model)
    freeze(model, plan_for(model, policy))
    assert torch.equal(observer(x), x)
    assert observe(model) == before


def test_pinned_norms_survive_train_and_the_rest_trains() -> None:
    """model.train() reaches dropout and unfrozen norms, not the pinned ones."""
    model = convnet()
    before = observe(model)
    train(model, {"freeze": ["1.**"]}, convnet_loss)
    after = observe(model)
    assert model.training
    assert not model[1].training
    assert model[4].training
    assert after["1.running_mean"] == before["1.running_mean"]
    assert after["4.running_mean"] != before["4.running_mean"]


def test_track_lets_statistics_move() -> None:
    """With "buffers": "track" the parameters are frozen and the statistics follow the data."""
    model = convnet()
    before = observe(model)
    train(model, {"freeze": ["1.**"], "buffers": "track"}, convnet_loss)
    after = observe(model)
    assert after["1.weight"] == before["1.weight"]
    assert after["1.running_mean"] != before["1.running_mean"]


def test_max_norm_off_is_said() -> None:
    """Switching renormalisation off changes what long rows compute, so it is a warning."""
    model = nn.ModuleDict({"body": nn.Embedding(4, 3, max_norm=0.1), "head": nn.Linear(1, 1)})
    frozen = freeze(model, plan_for(model, {"freeze": ["body.**"]}))
    (warning,) = frozen.warnings
    assert warning.startswith("'body' has max_norm=0.1")


def test_a_fake_quantize_module_that_observes_is_refused() -> None:
    """Its scale moves in every forward pass and switching it off would write to a frozen buffer."""
    fake = torch.ao.quantization.FakeQuantize()
    model = nn.ModuleDict({"body": fake, "head": nn.Linear(1, 1)})
    policy = {"rules": [{"action": "freeze", "select": {"kind": "buffer", "name": "body.**"}}]}
    with pytest.raises(PolicyError, match=r"disable_observer\(\)"):
        freeze(model, plan_for(model, policy))
    fake.disable_observer()
    freeze(model, plan_for(model, policy))


def test_a_rope_that_replaces_its_frequencies_is_refused() -> None:
    """Dynamic rope makes a new inv_freq for longer inputs, so it cannot be called frozen."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=8, rope_parameters=rope)
    model = nn.ModuleDict({"rope": LlamaRotaryEmbedding(config), "head": nn.Linear(1, 1)})
    policy = {"rules": [{"action": "freeze", "select": {"kind": "buffer", "name": "rope.inv_freq"}}]}
    with pytest.raises(PolicyError, match=r"rope type 'dynamic'"):
        freeze(model, plan_for(model, policy))


def test_pins_keep_names() -> None:
    """A pinned model lists the same tensors under the same types."""
    model, plain = convnet(), convnet()
    freeze(model, plan_for(model, {"freeze": ["1.**"]}))
    assert tensors(model) == tensors(plain)
