"""Adapters over bases with heads of their own, ties and embeddings; names of modules that are wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import (
    AutoModelForSequenceClassification,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MambaConfig,
    MambaForCausalLM,
)
from transformers.models.llama4.modeling_llama4 import Llama4Router

from app.errors import ModelError
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to
from tests.worker.trainer.zoo import DECODER, KINDS, Kind
from worker.protocol import Workspace
from worker.trainer.models import adapter_targets

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading

LABELS = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}, "pad_token_id": 0}
CLASSIFIERS = {
    "bert": "Bert",
    "roberta": "Roberta",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "deberta-v2": "DebertaV2",
    "albert": "Albert",
    "modernbert": "ModernBert",
    "mpnet": "MPNet",
    "xlnet": "XLNet",
    "llama": "Llama",
}


def trained(place: Workspace, adapter: dict[str, Any], *, task: str, rows: list[dict[str, Any]]) -> Attempt:
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny", "adapter": {"type": "lora", "r": 2, "alpha": 8} | adapter},
        task=task,
        data=data(place, rows),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 0.05},
        device="cpu",
    )
    return attempt(order, place.root)


def decoder(root: Path, adapter: dict[str, Any], **changes: Any) -> Attempt:
    place = Workspace(root).create()
    tiny.llama(place.base, **changes)
    rows = [{"text": "the cat sat on the mat"}] * 4
    return trained(place, adapter, task="causal-lm", rows=rows)


def merged_by_hand(base: torch.nn.Module, adapter: dict[str, torch.Tensor], *, scale: float) -> torch.nn.Module:
    """The base with the products of the adapter's matrices added to its weights."""
    state = base.state_dict()
    for name, a in adapter.items():
        if name.endswith("lora_A.weight"):
            weight = state[name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")]
            weight += scale * adapter[name.replace("lora_A", "lora_B")] @ a
    return base


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_peft_loads_an_adapter_over_a_head_of_the_base(tmp_path: Path, name: str) -> None:
    """The commonest base of all, a classifier: its head stays, the adapter is of the body, the logits are equal."""
    kind = Kind(
        f"{CLASSIFIERS[name]}ForSequenceClassification",
        f"{CLASSIFIERS[name]}Config",
        KINDS[name].sizes | LABELS,
        "text-classification",
    )
    place = Workspace(tmp_path / "job").create()
    kind.save(place.base)
    done = trained(place, {}, task=kind.task, rows=kind.rows())
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])
    assert all("lora_" in stored for stored in done.changed)

    folder = tmp_path / "result"
    shutil.copytree(done.place.files, folder)
    save_file(done.changed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        plain = AutoModelForSequenceClassification.from_pretrained(place.base).eval()
        before = plain(**inputs).logits
        expected = merged_by_hand(plain, done.changed, scale=4.0)(**inputs).logits
        loaded = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(place.base), folder)
        logits = loaded.eval()(**inputs).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, before, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_of_embeddings_hold_no_tensor_of_the_base(tmp_path: Path, target: str, tied: bool) -> None:
    """peft would save the embeddings beside the adapter: base weights in its file, which evidence could not place."""
    done = decoder(tmp_path, {"target_modules": ["q_proj", target]}, tie_word_embeddings=tied)
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])
    assert all("lora_" in name for name in done.changed)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_tied_weights_are_not_merged_into(tmp_path: Path, target: str) -> None:
    """It would change what the other reader of the weight computes; untied, it is merged."""
    adapter = {"target_modules": ["q_proj", target], "merge": True}
    done = decoder(tmp_path / "tied", adapter)
    assert (done.code, done.failure["param"]) == (1, "model.adapter.merge")
    assert "is tied to that of" in done.failure["message"]
    assert judge(decoder(tmp_path / "untied", adapter, tie_word_embeddings=False)).verdict == "verified"


def test_one_wrong_name_among_right_ones_is_refused(tmp_path: Path) -> None:
    """peft would train the others and say nothing."""
    done = decoder(tmp_path, {"target_modules": ["q_proj", "v_prj"]})
    assert (done.code, done.failure["param"]) == (1, "model.adapter.target_modules")
    assert "'v_prj'; did you mean 'v_proj'?" in done.failure["message"]


def test_patterns_are_left_to_peft() -> None:
    """A regular expression names no module by itself."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    adapter_targets.refuse_unknown(model, r".*\.q_proj")
    adapter_targets.refuse_unknown(model, None)
    with pytest.raises(ModelError, match="no module called 'q'"):
        adapter_targets.refuse_unknown(model, ["q"])


def test_weight_decomposition_is_verified(tmp_path: Path) -> None:
    """DoRA's magnitudes have another name in the model than in peft's file."""
    done = decoder(tmp_path, {"use_dora": True})
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])


def test_mamba_hybrids_get_an_adapter_where_peft_allows_one(tmp_path: Path) -> None:
    """peft's own defaults for Falcon-H1 hold a layer that it refuses; an event says what is left out."""
    sizes = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
    place = Workspace(tmp_path).create()
    Kind("FalconH1ForCausalLM", "FalconH1Config", DECODER | sizes, "causal-lm").save(place.base)
    done = trained(place, {}, task="causal-lm", rows=[{"text": "the cat sat on the mat"}] * 4)
    assert judge(done).verdict == "verified"
    assert not any("out_proj" in name for name in done.changed)
    assert any("leaves out conv1d, out_proj, dt_proj" in each["message"] for each in done.of("event"))


def test_layers_that_mamba_reads_without_calling_them() -> None:
    """An adapter on the step size of Mamba would never be used, and peft does not refuse it."""
    config = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1, time_step_rank=4)
    model = MambaForCausalLM(config)
    layers = adapter_targets.outside_mamba_kernels(model, adapter_targets.linear_layers(model, ()))
    assert sorted(path.rpartition(".")[2] for path in layers) == ["in_proj", "x_proj"]


def test_a_layer_with_a_forward_of_its_own_gets_no_adapter() -> None:
    """Llama 4's router is a linear layer that gives two tensors, to which nothing can be added."""
    sizes = DECODER | {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 64, "head_dim": 16}
    model = Llama4ForCausalLM(Llama4TextConfig(**sizes))
    routers = [path for path, module in model.named_modules() if isinstance(module, Llama4Router)]
    layers = adapter_targets.linear_layers(model, ())
    assert routers
    assert not set(routers) & set(layers)
    assert "model.layers.0.self_attn.q_proj" in layers
