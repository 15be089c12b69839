"""Names of a model that is wrapped while it is watched."""

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from worker.trainer.witness import Witness
from worker.trainer.witness.live_names import live_tensors, unwrapped_name


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.query(x))
        return logits


def train(model: nn.Module, w: Witness, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
        w.step()


def test_an_adapter_that_is_wrapped_around_a_watched_model_is_followed() -> None:
    """The base stays under watch as `.base_layer` and `.original_module`, and the report says so."""
    model = Classifier()
    with Witness(model, freeze="**", budget=1.0) as w:
        config = peft.LoraConfig(target_modules=["query"], modules_to_save=["classifier"])
        train(peft.get_peft_model(model, config), w)
    report = w.report()
    assert report.verdict == "verified", str(report)
    assert report.followed == {
        "query.weight": "query.base_layer.weight",
        "query.bias": "query.base_layer.bias",
        "classifier.weight": "classifier.original_module.weight",
        "classifier.bias": "classifier.original_module.bias",
    }
    assert "4 tensors followed into a wrapper ('classifier.bias' is now" in str(report)


@pytest.mark.parametrize(
    ("config", "inside"),
    [
        (
            peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [1, 2]}),
            "model.embed_tokens.token_adapter.base_layer.weight",
        ),
        (
            peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM"),
            "model.layers.0.self_attn.model.q_proj.weight",
        ),
    ],
    ids=["tokens beside an adapter", "adaption prompts"],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks a transformers model for it
def test_other_wrappers_of_peft(config: peft.PeftConfig, inside: str) -> None:
    """Every tensor is found again, that one among them."""
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    with Witness(model, freeze="**", budget=1.0) as w:
        peft.get_peft_model(model, config)
        w.step()
    report = w.report()
    assert report.verdict == "verified", str(report)
    assert inside in report.followed.values()


def test_what_moves_inside_the_wrapper_is_a_violation_under_the_old_name() -> None:
    """Merging an adapter changes the base."""
    model = Classifier()
    with Witness(model, freeze="query.**", budget=1.0) as w:
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"]))
        train(adapted, w)
        adapted.merge_adapter()
        w.step()
    (violation,) = w.report().violations
    assert (violation.name, violation.last_good_step, violation.first_bad_step) == ("query.weight", 2, 3)
    assert violation.what == "bytes changed"


def test_a_tensor_of_the_models_own_keeps_its_name() -> None:
    """A model may call a module `base_layer` itself, next to a plain one."""
    model = nn.ModuleDict({"base_layer": nn.Linear(1, 1), "other": nn.Linear(1, 1)})
    live = live_tensors(model)
    assert live["base_layer.weight"].name == "base_layer.weight"
    assert live["weight"].name == "base_layer.weight"
    model.weight = nn.Parameter(torch.zeros(1))
    assert live_tensors(model)["weight"].name == "weight"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a.base_layer.weight", "a.weight"),
        ("a.original_module.b.bias", "a.b.bias"),
        ("a.base_layers.w", "a.base_layers.w"),
    ],
)
def test_only_whole_segments_are_left_out(name: str, plain: str) -> None:
    assert unwrapped_name(name) == plain
