"""Real architectures of transformers, each tiny: trained with a frozen prefix, proved, and loaded again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file

from app.specs.models import TransformersSpec
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to, verified
from tests.worker.trainer.zoo import KINDS, Kind
from worker.protocol import Workspace
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import loading, pretrained
from worker.trainer.witness.observe import digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft's
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),  # peft's, of fused experts
]

LORA = {"type": "lora", "r": 2}
#: Architectures that rename, fuse, tie or share tensors, each in a way of its own.
TELLING = (
    "roberta",
    "albert",
    "gpt2",
    "llama, tied",
    "gpt-neox",
    "mixtral",
    "deepseek-v3",
    "vit",
    "beit",
    "swin",
    "distilbert",
)


@pytest.mark.parametrize("name", KINDS)
def test_a_frozen_prefix_is_proved(name: str, tmp_path: Path) -> None:
    """Half of the base's parameters are frozen: verified, without objection of a verifier, and loadable as it was."""
    done = trained(KINDS[name], tmp_path / "job", policy={"freeze": first_half(KINDS[name], tmp_path / "job")})
    roles = proved(done)
    assert roles["frozen"] >= 7
    assert roles["trainable"] >= 7
    reloads(KINDS[name], done, tmp_path / "loaded")


@pytest.mark.parametrize("name", ["albert", "gpt2", "mixtral", "beit", "resnet"])
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Taken up again from its first checkpoint, a run gives what it gave without a break."""
    kind = KINDS[name]
    policy = {"freeze": first_half(kind, tmp_path / "whole")}
    whole = trained(kind, tmp_path / "whole", policy=policy, epochs=2)
    place = Workspace(tmp_path / "again").create()
    kind.save(place.base)
    first = min(whole.place.checkpoints.iterdir())
    shutil.copytree(first, place.checkpoints / first.name)
    again = trained(kind, place.root, policy=policy, epochs=2)
    assert any(each["message"].startswith("goes on after step 1") for each in again.of("event")), again.of("event")
    assert {name: each["trained"] for name, each in again.observed.items()} == {
        name: each["trained"] for name, each in whole.observed.items()
    }
    proved(again)


@pytest.mark.parametrize("name", [*TELLING, "electra", "mamba", "resnet", "qwen2-moe", "convnext"])
def test_lora_over_a_proved_base(name: str, tmp_path: Path) -> None:
    """Every tensor of the base that the model has is proved, and plain peft loads the adapter to the same logits."""
    kind = KINDS[name]
    adapter = LORA | kind.adapter
    done = trained(kind, tmp_path / "job", adapter=adapter)
    roles = proved(done)
    assert roles["new"] >= 2
    assert "trainable" not in roles
    folder = tmp_path / "adapter"
    shutil.copytree(done.place.files, folder)
    save_file(done.changed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    options = {} if kind.task == "causal-lm" else {"num_labels": 2}
    base = auto(kind).from_pretrained(done.place.base, ignore_mismatched_sizes=True, **options)
    model = PeftModel.from_pretrained(base, folder)
    state = model.state_dict()
    for stored, tensor in done.changed.items():
        found = [each for each in state if same_name(each, stored)]
        assert any(torch.equal(state[each], tensor) for each in found), (stored, found)


@pytest.mark.parametrize("name", ["gpt2", "llama, tied", "mixtral", "deepseek-v3", "swin", "roberta"])
def test_merged_adapters_change_what_they_say(name: str, tmp_path: Path) -> None:
    """What LoRA was merged into is trained, the rest is proved frozen, and the whole model loads."""
    done = trained(KINDS[name], tmp_path / "job", adapter=LORA | KINDS[name].adapter | {"merge": True})
    roles = proved(done)
    assert roles["frozen"] >= 7
    assert roles["trainable"] >= 2
    reloads(KINDS[name], done, tmp_path / "loaded")


def test_tensors_that_loading_takes_apart_are_refused(tmp_path: Path) -> None:
    """Dinov2 with SwiGLU: one stored tensor becomes two, of which neither is in a file."""
    sizes = KINDS["dinov2"].sizes | {"use_swiglu_ffn": True}
    kind = Kind("Dinov2Model", "Dinov2Config", sizes, "image-classification")
    for adapter in ({}, LORA):
        done = trained(kind, tmp_path / f"job{len(adapter)}", adapter=adapter)
        assert done.code == 1
        assert done.failure["code"] == "unsupported_model"
        assert "weights_in" in done.failure["message"]


@pytest.mark.parametrize(
    "rule",
    [
        {"select": {"name": "model.layers.0.mlp.experts.gate_up_proj", "rows": [[0, 1]]}},
        {"select": {"name": "model.layers.0.**"}, "when": [{"from_step": 0, "to_step": 1}]},
    ],
    ids=["rows", "steps"],
)
def test_parts_and_times_of_fused_experts_are_refused(rule: dict[str, Any], tmp_path: Path) -> None:
    """The first expert alone is a row of the live tensor, and of no stored one; nor has a stored one intervals."""
    done = trained(KINDS["mixtral"], tmp_path, policy={"rules": [{"action": "freeze", **rule}]})
    assert done.code == 1
    assert "in pieces" in done.failure["message"]
    assert done.failure["param"] == "freeze_policy"


def test_lora_needs_a_layer_to_be_beside(tmp_path: Path) -> None:
    """A convnet has no linear layer but its head: the modules have to be named."""
    done = trained(KINDS["resnet"], tmp_path, adapter=LORA)
    assert done.code == 1
    assert done.failure["param"] == "model.adapter.target_modules"


def test_a_model_that_cannot_run_is_refused(tmp_path: Path) -> None:
    """A T5 whose config names no first token of its decoder: the model's own code fails, and is told as such."""
    sizes = {
        "vocab_size": 64,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 2,
        "eos_token_id": 3,
    }
    done = trained(Kind("T5ForConditionalGeneration", "T5Config", sizes, "text-classification"), tmp_path)
    assert done.code == 1
    assert (done.failure["code"], done.failure["param"]) == ("model_cannot_run", "model")
    assert "decoder_start_token_id" in done.failure["message"]


def trained(kind: Kind, root: Path, *, policy: Any = None, adapter: Any = None, epochs: int = 1) -> Attempt:
    """Two steps in each epoch, with checkpoints between."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        kind.save(place.base)
    order = work_order(
        job_id="ftjob-zoo",
        stage="train",
        model={"type": "transformers", "path": "tiny"} | ({"adapter": adapter} if adapter else {}),
        task=kind.task,
        data=data(place, kind.rows()),
        hyperparameters={
            "n_epochs": epochs,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "checkpoint_steps": 1,
            "keep_checkpoints": 9,
        },
        policy=policy or {},
        device="cpu",
    )
    return attempt(order, root)


def first_half(kind: Kind, root: Path) -> list[str]:
    """Names of the first half of the base's parameters, ties under each of theirs."""
    place = Workspace(root).create()
    kind.save(place.base)
    codes = loading.dtype_codes(place.base)
    model, new, _ = pretrained.load_skeleton(TransformersSpec(path="tiny"), place.base, task=kind.task, codes=codes)
    infos = [each for each in tensors(model) if each.kind == "parameter" and each.name not in new]
    return [name for each in infos[: len(infos) // 2] for name in (each.name, *each.aliases)]


def proved(done: Attempt) -> dict[str, int]:
    """How many rows there are of each role, in evidence to which nobody objects."""
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    assert objections_to(done, judged) == []
    roles = [row.role for row in judged.rows]
    return {role: roles.count(role) for role in roles}


def reloads(kind: Kind, done: Attempt, folder: Path) -> None:
    """`from_pretrained` finds every tensor of its model in the result, and all have the bytes that training left."""
    shutil.copytree(done.place.files, folder)
    save_file(done.composed(), folder / "model.safetensors", metadata={"format": "pt"})
    report = verified(done, judge(done), folder)
    assert (report.level, report.problems) == (3, ())
    loaded, info = auto(kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    judged = {name for name, each in done.observed.items() if each["persistent"]}
    live = dict(loaded.named_parameters(remove_duplicate=False)) | dict(loaded.named_buffers(remove_duplicate=False))
    assert {name for name in judged if digest(live[name]) != done.observed[name]["trained"]} == set()


def auto(kind: Kind) -> Any:
    return getattr(transformers, pretrained.AUTO_CLASS[kind.task])


def same_name(live: str, stored: str) -> bool:
    parts = [each for each in live.split(".") if each not in ("default", "modules_to_save")]
    return ".".join(parts) == stored
