"""LoRA jobs: the base is untouched, the result is peft's own format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data
from worker.trainer.protocol import WorkOrder, Workspace

INITIALISED = "model.adapter.init_lora_weights"
LORA = {"type": "lora", "r": 4, "alpha": 8, "dropout": 0.1}

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading


def classifier(root: Path, **changes: Any) -> Attempt:
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        tiny.bert(place.base)
    rows = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS * 2)]
    fields = {
        "job_id": "ftjob-lora",
        "stage": "train",
        "model": {"type": "transformers", "path": "tiny", "adapter": LORA},
        "task": "text-classification",
        "data": data(place, rows),
        "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "checkpoint_steps": 2},
        "seed": 4,
        "device": "cpu",
    }
    return attempt(WorkOrder.from_json(fields | changes), root)


def test_base_is_frozen_and_the_adapter_alone_is_saved(tmp_path: Path) -> None:
    """Without a policy of its own, an adapter job freezes its whole base; the result holds adapter and new head."""
    done = classifier(tmp_path)
    assert done.code == 0
    assert all(".lora_" in name or ".classifier." in name for name in done.result)
    assert {each["from"] for each in done.result.values()} == {"changed"}
    counts = done.of("plan")[0]["counts"]
    assert counts["frozen"]["tensors"] == len(done.base)
    for name, tensor in done.observed.items():
        if ".lora_" not in name and ".classifier." not in name and tensor["persistent"]:
            assert tensor["loaded"] == tensor["trained"]
            assert len(tensor["base"]) == 1, name
            assert tensor["result"] is None


def test_peft_loads_the_result(tmp_path: Path) -> None:
    """The published files over the base give the tensors that were trained."""
    done = classifier(tmp_path / "job")
    folder = published(done, tmp_path / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(done.place.base, num_labels=2)
    model = PeftModel.from_pretrained(base, folder).eval()
    trained = done.changed
    state = model.state_dict()
    name = "base_model.model.bert.encoder.layer.1.attention.self.query"
    assert torch.equal(state[f"{name}.lora_B.default.weight"], trained[f"{name}.lora_B.weight"])
    head = "base_model.model.classifier"
    assert torch.equal(state[f"{head}.modules_to_save.default.weight"], trained[f"{head}.weight"])
    tokens = AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 2)


def test_causal_adapter(tmp_path: Path) -> None:
    """A decoder has no head of its own: LoRA matrices alone."""
    place = Workspace(tmp_path / "job").create()
    tiny.llama(place.base)
    done = classifier(
        tmp_path / "job",
        task="causal-lm",
        data=data(place, [{"text": "the cat sat on the mat"}] * 8, "causal.jsonl"),
        model={"type": "transformers", "path": "tiny", "adapter": LORA | {"target_modules": ["q_proj", "down_proj"]}},
    )
    assert done.code == 0
    assert all(".lora_" in name for name in done.result)
    folder = published(done, tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(done.place.base), folder)
    assert "lora" in str(model.peft_config["default"].peft_type).lower()


def test_resumed_adapter_has_the_same_bits(tmp_path: Path) -> None:
    """From a checkpoint, with LoRA's dropout on."""
    whole = classifier(tmp_path / "whole")
    folder = Workspace(tmp_path / "resumed").create()
    for path in sorted(whole.place.checkpoints.iterdir())[:1]:
        shutil.copytree(path, folder.checkpoints / path.name)
    resumed = classifier(folder.root)
    assert any("goes on after step" in each["message"] for each in resumed.of("event"))
    for name, tensor in whole.changed.items():
        assert torch.equal(tensor, resumed.changed[name]), name


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": {"type": "transformers", "adapter": LORA | {"type": "mora"}}}, "model.adapter.type"),
        ({"model": {"type": "transformers", "adapter": LORA | {"rank": 4}}}, "model.adapter.rank"),
        (
            {"model": {"type": "transformers", "adapter": LORA | {"target_modules": ["no"]}}},
            "model.adapter.target_modules",
        ),
        ({"policy": {"freeze": ["**.encoder.**"]}}, "freeze_policy"),
        *(
            ({"model": {"type": "transformers", "adapter": LORA | {"init_lora_weights": how}}}, INITIALISED)
            for how in ("pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda", "lora_ga")
        ),
        ({"model": {"type": "transformers", "adapter": LORA | {"bias": "all"}}}, "model.adapter.bias"),
        ({"model": {"type": "transformers", "adapter": LORA | {"bias": "lora_only"}}}, "model.adapter.bias"),
    ],
)
def test_what_cannot_be_an_adapter_is_refused(tmp_path: Path, changes: dict[str, Any], param: str) -> None:
    """Unknown kinds and options, targets that match nothing, a policy or an option that changes the base."""
    done = classifier(tmp_path, **changes)
    assert (done.code, done.failure["param"]) == (1, param)


def published(done: Attempt, folder: Path) -> Path:
    shutil.copytree(done.place.files, folder)
    save_file(done.changed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
