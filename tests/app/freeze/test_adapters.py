"""Previewed tensors of a model with an adapter are those that peft makes."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from fastapi import FastAPI
from peft.utils import constants
from starlette.testclient import TestClient
from torch import nn
from transformers import AutoConfig

from app.errors import ModelError
from app.freeze.adapters import DEFAULT_TARGETS, adapted
from app.specs.adapters import Ia3Spec, LoraSpec, PromptTuningSpec
from tests.app.models.models import add_model
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models.adapters import wrap
from worker.trainer.models.merging import targets

SMALL: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32,
    "num_key_value_heads": 1, "max_position_embeddings": 16, "head_dim": 4,
}  # fmt: skip
HEAD = ("classifier.weight", "classifier.bias")

LORA = [LoraSpec(), LoraSpec(r=2, use_dora=True), LoraSpec(target_modules=("v_proj", "model.layers.1.mlp.down_proj"))]
OTHERS = [LoraSpec(target_modules=("embed_tokens",)), Ia3Spec(), PromptTuningSpec(num_virtual_tokens=3)]


def llama(**changes: Any) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SMALL | changes)))


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=32))


@pytest.mark.parametrize(
    ("make", "adapter"),
    [
        *((llama, adapter) for adapter in (*LORA, *OTHERS)),
        *((bert, adapter) for adapter in (LoraSpec(use_dora=True), Ia3Spec(target_modules=("key", "output.dense")))),
        *((gpt2, adapter) for adapter in (LoraSpec(), Ia3Spec(), PromptTuningSpec())),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_the_tensors_are_those_of_peft(make: Any, adapter: Any, half: bool) -> None:
    """Name, shape, dtype, kind, aliases and enclosing modules, one for one; and what merging would change."""
    new = HEAD if make is bert else ()
    plain, base = (make().half() if half else make() for _ in range(2))
    found = adapted(tensors(plain), adapter, initialised=new)
    task = "text-classification" if make is bert else "causal-lm"
    wrapped = wrap(base, adapter, task=task, seed=0, new=new)
    real = {info.name: info for info in tensors(wrapped)}
    assert {info.name: info for info in found.tensors} == real
    if not isinstance(adapter, PromptTuningSpec):
        assert found.merged == targets(wrapped)
        assert found.new == {f"base_model.model.{name}" for name in new}


def test_the_defaults_are_pefts() -> None:
    """For each family that has a class in transformers; those without one here are left to the loaded model."""
    for family, expected in DEFAULT_TARGETS.items():
        config = getattr(transformers, f"{family}Config")
        kind = config.model_type
        assert kind in AutoConfig.for_model(kind).model_type
        assert set(expected.lora) == set(constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[kind])
        if expected.ia3:
            assert set(expected.ia3) == set(constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind])
            feedforward = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind]
            assert set(expected.feedforward) == set(feedforward)


def test_what_cannot_be_known_is_refused() -> None:
    """A family whose targets are chosen on the loaded model, a module that is not there, a convolution."""
    distil = transformers.DistilBertModel(transformers.DistilBertConfig(dim=8, hidden_dim=8, n_layers=1, n_heads=2))
    with pytest.raises(ModelError, match="name them in target_modules"):
        adapted(tensors(distil), LoraSpec())
    with pytest.raises(ModelError, match="no module called 'q_prj'"):
        adapted(tensors(llama()), LoraSpec(target_modules=("q_prj",)))
    norm = LoraSpec(target_modules=("input_layernorm",))
    with pytest.raises(ModelError, match="LlamaRMSNorm"):
        adapted(tensors(llama()), norm)


def test_an_adapter_job_is_previewed(client: TestClient, embedded: FastAPI, tmp_path: Path) -> None:
    """Without a policy of its own the base is frozen, adapter and new head train; merged, the weights below it may."""
    manifest = [info.to_json() | {"initialised": info.name in HEAD} for info in tensors(bert())]
    spec = {"type": "transformers", "path": "tiny", "task": "text-classification"}
    add_model(embedded.state.backends, tmp_path, "tiny", manifest={"text-classification": manifest}, spec=spec)
    model = spec | {"adapter": {"type": "lora", "r": 2}}
    answer = client.post("freeze_policies/preview", json={"model": model, "freeze_policy": {}, "limit": 10_000})
    assert answer.status_code == 200, answer.text
    actions = {row["name"]: row["action"] for row in answer.json()["data"] if row["kind"] == "parameter"}
    trained = {name for name, action in actions.items() if action == "train"}
    assert len(trained) == 2 * 2 * 2 + 2
    assert all(".lora_" in name or ".classifier." in name for name in trained)

    merged = model | {"adapter": {"type": "lora", "r": 2, "merge": True}}
    answer = client.post("freeze_policies/preview", json={"model": merged, "freeze_policy": {}, "limit": 10_000})
    rows = {row["name"]: row["action"] for row in answer.json()["data"] if row["kind"] == "parameter"}
    changed = {name for name, action in rows.items() if action == "train"}
    assert changed == {name for name in rows if name.endswith((".query.weight", ".value.weight"))} | set(HEAD)
