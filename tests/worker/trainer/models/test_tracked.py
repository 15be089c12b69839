"""What would spoil a job's evidence is found before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from app.errors import PolicyError
from app.freeze.policy import Policy
from app.specs.models import read_model
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to
from tests.worker.trainer.zoo import DECODER
from worker.protocol import Workspace
from worker.trainer.models import loading
from worker.trainer.models.tracked import TrackedModel

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = DECODER | {"head_dim": 16, "pad_token_id": 0}
ROWS = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS[:8])]
HALF = {"freeze": ["**.layers.0.**"]}


def gemma3() -> Any:
    config = transformers.Gemma3Config(
        text_config=TEXT,
        vision_config=VISION | {"image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def qwen35() -> Any:
    text = TEXT | {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "layer_types": ["full_attention", "full_attention"],
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 1,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }
    config = transformers.Qwen3_5Config(text_config=text, vision_config=vision)
    return transformers.Qwen3_5ForConditionalGeneration(config)


def funnel() -> Any:
    config = transformers.FunnelConfig(
        vocab_size=64,
        block_sizes=[1, 1],
        num_decoder_layers=1,
        d_model=32,
        n_head=2,
        d_head=16,
        d_inner=64,
        pad_token_id=0,
    )
    return transformers.FunnelBaseModel(config)


def saved(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.01)
    model.save_pretrained(folder)
    tiny.tokenizer(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), bert_like=True)


def run(root: Path, model: Any, *, task: str, policy: dict[str, Any]) -> Attempt:
    place = Workspace(root).create()
    saved(model, place.base)
    rows = ROWS if task == "text-classification" else [{"text": row["text"]} for row in ROWS]
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task=task,
        data=data(place, rows),
        hyperparameters={"n_epochs": 1, "batch_size": 4},
        policy=policy,
        device="cpu",
    )
    return attempt(order, root)


def test_a_model_of_several_kinds_is_followed_into_a_classifier(tmp_path: Path) -> None:
    """Gemma 3 saved with its vision tower, loaded as a classifier: two tables of names, one of them inside the body."""
    done = run(tmp_path, gemma3(), task="text-classification", policy=HALF)
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])


def test_the_same_model_is_followed_as_it_was_saved(tmp_path: Path) -> None:
    """As a causal language model its names are in the verifier's tables."""
    done = run(tmp_path, gemma3(), task="causal-lm", policy=HALF)
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])


def test_a_tensor_that_loading_changes_cannot_be_frozen(tmp_path: Path) -> None:
    """Funnel's row of the padding token is zeroed by loading; the run would end as a violation."""
    done = run(tmp_path, funnel(), task="text-classification", policy={"freeze": ["**.embeddings.**"]})
    assert (done.code, done.failure["code"]) == (1, "invalid_freeze_policy")
    assert "loading it changes its bytes" in done.failure["message"]
    assert done.of("step") == []


def test_what_transformers_leaves_out_in_silence_is_in_an_event(tmp_path: Path) -> None:
    """The vision tower of a Qwen 3.5 folder, as a causal language model."""
    done = run(tmp_path, qwen35(), task="causal-lm", policy=HALF)
    assert done.code == 0
    (note,) = [each["message"] for each in done.of("event") if "not in this model" in each["message"]]
    assert "visual." in note
    assert "more; the result does not have them" in note


def test_whatever_rewrites_the_base_with_an_adapter_is_found(tmp_path: Path) -> None:
    """By comparing bytes, and not by the names of initialisations that are known to."""
    tiny.llama(tmp_path)
    spec = read_model({"type": "transformers", "path": "tiny", "adapter": {"type": "lora", "r": 2}})
    loaded = loading.load(spec, tmp_path, task="causal-lm", labels=None, seed=0)
    layer: Any = next(each for name, each in loaded.model.named_modules() if name.endswith("q_proj"))
    with torch.no_grad():
        layer.base_layer.weight[0, 0] += 1  # as PiSSA, OLoRA and `kasa_config` do
    tracked = TrackedModel.of(loaded)
    plan = tracked.plan(Policy.from_json({}))
    with pytest.raises(PolicyError, match=r"setting up the adapter changes its bytes.*q_proj\.weight"):
        tracked.read_loaded(plan)
