"""LoRA jobs: the base is untouched, the result is peft's own format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt_json, data
from tests.worker.trainer.judging import judge
from worker.protocol import Workspace

TINY = {"type": "transformers", "path": "tiny"}
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
        "model": TINY | {"adapter": LORA},
        "task": "text-classification",
        "data": data(place, rows),
        "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "checkpoint_steps": 2},
        "seed": 4,
        "device": "cpu",
    }
    return attempt_json(fields | changes, root)


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
            assert tensor["result"] == []


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
        model=TINY | {"adapter": LORA | {"target_modules": ["q_proj", "down_proj"]}},
    )
    assert done.code == 0
    assert all(".lora_" in name for name in done.result)
    folder = published(done, tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(done.place.base), folder)
    assert "lora" in str(model.peft_config["default"].peft_type).lower()
    # By these vLLM's resolver finds it, and takes it: the base to the letter, and nothing beside the matrices.
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "tiny")
    assert (config["modules_to_save"], config["bias"], config["use_dora"]) == (None, "none", False)


def causal(root: Path, adapter: dict[str, Any], **changes: Any) -> Attempt:
    place = Workspace(root).create()
    tiny.llama(place.base)
    rows = data(place, [{"text": "the cat sat on the mat"}, {"text": "a dog ran"}] * 8, "causal.jsonl")
    spec = TINY | {"adapter": adapter}
    return classifier(root, task="causal-lm", data=rows, model=spec, **changes)


def logits(model: Any, folder: Path) -> torch.Tensor:
    tokens = AutoTokenizer.from_pretrained(folder)("the dog sat on a tree", return_tensors="pt")
    tokens.pop("token_type_ids", None)
    with torch.no_grad():
        return torch.as_tensor(model.eval()(**tokens).logits)


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        ({"type": "ia3"}, "IA3"),
        ({"type": "ia3", "target_modules": ["q_proj"]}, "IA3"),
        ({"type": "prompt_tuning", "num_virtual_tokens": 3}, "PROMPT_TUNING"),
        ({"type": "lora", "r": 2, "use_rslora": True}, "LORA"),
        ({"type": "lora", "r": 2, "use_dora": True}, "LORA"),
    ],
)
def test_every_kind_over_an_untouched_base(tmp_path: Path, adapter: dict[str, Any], kind: str) -> None:
    """The result holds the adapter alone; peft loads it over the base, and the logits are no longer the base's."""
    done = causal(tmp_path / "job", adapter)
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    assert {row.base.name for row in judged.rows if row.role == "frozen" and row.base} == set(done.base)
    folder = published(done, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(done.place.base)
    plain = logits(base, folder)
    model = PeftModel.from_pretrained(base, folder)
    assert kind in str(model.peft_config["default"].peft_type)
    assert not torch.equal(logits(model, folder)[:, -plain.shape[1] :], plain)
    assert done.of("step")[-1]["loss"] < done.of("step")[0]["loss"]


@pytest.mark.parametrize("adapter", [LORA, {"type": "ia3"}, LORA | {"use_dora": True}])
def test_merged_adapter_is_a_whole_model(tmp_path: Path, adapter: dict[str, Any]) -> None:
    """from_pretrained loads it, with the adapter's logits; nothing is claimed of what it was merged into."""
    apart = causal(tmp_path / "apart", adapter)
    done = causal(tmp_path / "job", adapter | {"merge": True})
    assert done.code == 0, done.reports[-1]
    assert set(done.result) == set(done.base)
    folder = published(apart, tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(apart.place.base), folder)
    whole = AutoModelForCausalLM.from_pretrained(composed(done, tmp_path / "whole"))
    assert torch.allclose(logits(whole, folder), logits(model, folder), atol=1e-5)
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    roles = {row.name: row.role for row in judged.rows if row.role != "buffer"}
    assert {name for name, role in roles.items() if role == "trainable"} == set(done.observations["merged"])
    assert {row.name for row in judged.rows if row.changed} == set(done.changed)
    assert "model.layers.0.self_attn.q_proj.weight" in done.changed or adapter["type"] == "ia3"
    assert roles["model.embed_tokens.weight"] == "frozen"


def test_merged_classifier_has_its_new_head(tmp_path: Path) -> None:
    """A head that the base does not hold is in the result, with the bytes that it started from kept to compare with."""
    done = classifier(tmp_path / "job", model=TINY | {"adapter": LORA | {"merge": True}})
    assert done.code == 0, done.reports[-1]
    assert set(load_file(done.place.initial)) == {"classifier.weight", "classifier.bias"}
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    roles = {row.name: row.role for row in judged.rows}
    assert (roles["classifier.weight"], roles["bert.embeddings.word_embeddings.weight"]) == ("new", "frozen")
    AutoModelForSequenceClassification.from_pretrained(composed(done, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"train": ["**.q_proj.weight"]}, "is changed by merging the adapter"),
        ({"train": ["**.q_proj.weight", "**.v_proj.weight", "**.o_proj.weight"]}, "is not changed by the adapter"),
        ({"train": ["**.q_prj.weight"]}, "matches nothing"),
    ],
)
def test_policy_that_merging_does_not_keep_is_refused(tmp_path: Path, policy: dict[str, Any], says: str) -> None:
    """Before a step: a policy for a merged adapter is about the merged model, under its plain names."""
    done = causal(tmp_path, LORA | {"merge": True}, policy=policy)
    assert (done.code, done.of("step")) == (1, [])
    assert done.failure["code"] == "invalid_freeze_policy" and says in done.failure["message"]


def test_policy_that_merging_keeps_is_the_evidences(tmp_path: Path) -> None:
    """Written out by its author, with its own rules."""
    policy = {"train": ["**.q_proj.weight", "**.v_proj.weight"]}
    done = causal(tmp_path, LORA | {"merge": True}, policy=policy)
    assert done.code == 0, done.reports[-1]
    assert judge(done).verdict == "verified"


def take_up(done: Attempt, root: Path, adapter: dict[str, Any]) -> Attempt:
    """Another job that trains the adapter on, staged as the supervisor stages it."""
    place = Workspace(root).create()
    tiny.bert(place.base)
    place.adapter.parent.mkdir()
    save_file(done.changed, place.adapter)
    return classifier(root, model=TINY | {"adapter": adapter | {"start": "ft:tiny"}})


def test_adapter_is_trained_on(tmp_path: Path) -> None:
    """Matrices and head begin where the earlier job ended, not where the seed would put them."""
    first = classifier(tmp_path / "first")
    again = take_up(first, tmp_path / "again", LORA)
    assert again.code == 0, again.reports[-1]
    began = load_file(again.place.initial)
    assert began.keys() == first.changed.keys()
    assert all(torch.equal(began[name], tensor) for name, tensor in first.changed.items())
    assert judge(again).verdict == "verified"


@pytest.mark.parametrize("adapter", [LORA | {"r": 2}, {"type": "ia3"}, LORA | {"target_modules": ["query"]}])
def test_adapter_of_another_form_is_not_taken_up(tmp_path: Path, adapter: dict[str, Any]) -> None:
    """Other ranks, kinds and places: refused before a step, with the name of a tensor."""
    done = take_up(classifier(tmp_path / "first"), tmp_path / "again", adapter)
    assert (done.code, done.failure["code"], done.of("step")) == (1, "invalid_model", [])
    assert "base_model.model." in done.failure["message"]


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
        ({"model": TINY | {"adapter": LORA | {"type": "mora"}}}, "model.adapter.type"),
        ({"model": TINY | {"adapter": LORA | {"rank": 4}}}, "model.adapter.rank"),
        (
            {"model": TINY | {"adapter": LORA | {"target_modules": ["no"]}}},
            "model.adapter.target_modules",
        ),
        (
            {"model": TINY | {"adapter": {"type": "prompt_tuning"}}},
            "model.adapter.type",
        ),
        ({"policy": {"freeze": ["**.encoder.**"]}}, "freeze_policy"),
        *(
            (
                {"model": TINY | {"adapter": LORA | {"init_lora_weights": how}}},
                INITIALISED,
            )
            for how in ("pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda", "lora_ga")
        ),
        ({"model": TINY | {"adapter": LORA | {"bias": "all"}}}, "model.adapter.bias"),
        (
            {"model": TINY | {"adapter": LORA | {"bias": "lora_only"}}},
            "model.adapter.bias",
        ),
    ],
)
def test_what_cannot_be_an_adapter_is_refused(tmp_path: Path, changes: dict[str, Any], param: str) -> None:
    """Unknown kinds and options, targets that match nothing, a policy or an option that changes the base."""
    done = classifier(tmp_path, **changes)
    assert (done.code, done.failure["param"]) == (1, param)


def composed(done: Attempt, folder: Path) -> Path:
    shutil.copytree(done.place.files, folder)
    save_file(done.composed(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def published(done: Attempt, folder: Path) -> Path:
    shutil.copytree(done.place.files, folder)
    save_file(done.changed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
