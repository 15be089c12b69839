"""New tokens: rows that the base does not have, trained beside old rows that keep its bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from app.evidence.format.statement import Row
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data
from tests.worker.trainer.judging import judge
from worker.protocol import WorkOrder, Workspace

WORDS = [f"<new{number}>" for number in range(40)]  # the tiny models have 64 rows, their tokenizers 26 and 28 words
TEXTS = [{"text": f"the {word} sat on {WORDS[-1]}"} for word in tiny.WORDS]


def run(root: Path, policy: dict[str, Any], *, words: list[str] = WORDS, **changes: Any) -> Attempt:
    """A causal model; `changes` are its config's."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        tiny.llama(place.base, **changes)
    order = {
        "job_id": "ftjob-new",
        "stage": "train",
        "model": {"type": "transformers", "path": "tiny", "new_tokens": words},
        "task": "causal-lm",
        "data": data(place, TEXTS),
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.05, "checkpoint_steps": 2},
        "policy": policy,
        "seed": 4,
        "device": "cpu",
    }
    return attempt(WorkOrder.from_json(order), root)


def rows(name: str, first: int, last: int) -> dict[str, Any]:
    return {"action": "train", "select": {"name": name, "rows": [[first, last]]}}


def row_of(done: Attempt, name: str) -> Row:
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    return next(row for row in judged.rows if row.name == name)


def test_old_rows_keep_the_bases_bytes(tmp_path: Path) -> None:
    """Tied embeddings: the rows that were there are proved, the new ones have an initial reading and are trained."""
    name = "model.embed_tokens.weight"
    policy = {"default": "freeze", "rules": [rows(name, 64, 68), rows("lm_head.weight", 64, 68)]}
    done = run(tmp_path / "job", policy)
    assert done.code == 0, done.reports[-1]
    was, now = done.base[name], done.changed[name]
    assert (was.shape[0], now.shape[0]) == (64, 68)
    assert torch.equal(now[:64], was)
    row = row_of(done, name)
    old, new = row.slices
    assert (row.role, old.rows, old.action, new.rows, new.action) == ("split", (0, 64), "freeze", (64, 68), "train")
    assert old.base is not None and old.base == old.result and old.initial is None
    assert new.base is None and new.initial is not None and new.initial != new.result
    assert set(done.changed) == {name}
    whole = composed(done, tmp_path / "whole")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)
    assert (len(tokenizer), model.config.vocab_size) == (68, 68)
    assert tokenizer(WORDS[-1])["input_ids"] == [67]
    assert torch.equal(model.get_output_embeddings().weight, now)


def test_untied_head_grows_too(tmp_path: Path) -> None:
    """Both tensors, each with a rule of its own."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    policy = {"default": "freeze", "rules": [rows(name, 64, 68) for name in names]}
    done = run(tmp_path, policy, tie_word_embeddings=False)
    assert done.code == 0, done.reports[-1]
    for name in names:
        assert row_of(done, name).role == "split"
        assert torch.equal(done.changed[name][:64], done.base[name])
        assert not torch.equal(done.changed[name][64:], load_file(done.place.base / "model.safetensors")[name][:4])


def test_wholly_trained_tensor_is_told_apart_from_its_new_rows(tmp_path: Path) -> None:
    """Nothing is claimed of either part; the new rows have an initial reading all the same."""
    done = run(tmp_path, {"freeze": ["model.layers.**"]})
    row = row_of(done, "model.embed_tokens.weight")
    assert (row.role, [part.rows for part in row.slices]) == ("trainable", [(0, 64), (64, 68)])
    assert row.slices[0].base is not None and row.slices[1].initial is not None and row.slices[1].base is None


def test_encoder_with_rows_to_spare(tmp_path: Path) -> None:
    """Where the base has rows that its tokenizer does not use, the new tokens take those, and nothing grows."""
    done = run(tmp_path, {"freeze": ["model.layers.**"]}, words=WORDS[:3])
    assert done.code == 0, done.reports[-1]
    assert done.changed["model.embed_tokens.weight"].shape == done.base["model.embed_tokens.weight"].shape
    assert any("has rows for them already" in each["message"] for each in done.of("event"))
    assert AutoTokenizer.from_pretrained(done.place.files).convert_tokens_to_ids(WORDS[2]) == 30


def test_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    """A checkpoint holds the longer tensors."""
    policy = {"freeze": ["model.layers.**"]}
    whole = run(tmp_path / "whole", policy)
    folder = Workspace(tmp_path / "resumed").create()
    for path in sorted(whole.place.checkpoints.iterdir())[:1]:
        shutil.copytree(path, folder.checkpoints / path.name)
    resumed = run(folder.root, policy)
    assert any("goes on after step" in each["message"] for each in resumed.of("event"))
    assert all(torch.equal(tensor, resumed.changed[name]) for name, tensor in whole.changed.items())


@pytest.mark.parametrize(
    ("policy", "words", "param", "says"),
    [
        ({"freeze": ["model.embed_tokens.**", "lm_head.**"]}, WORDS, "freeze_policy", '"rows": [[64, 68]]'),
        ({"freeze": ["model.norm.**"]}, ["<new>", "cat"], "model.new_tokens[1]", "'cat'"),
        ({"freeze": ["model.norm.**"]}, ["<new>", "<new>"], "model.new_tokens[1]", "twice"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, policy: dict[str, Any], words: list[str], param: str, says: str
) -> None:
    """New rows under a freeze, words that the tokenizer has: said before a step, with what would work."""
    done = run(tmp_path, policy, words=words)
    assert (done.code, done.of("step")) == (1, [])
    assert done.failure["param"] == param and says in done.failure["message"]


def composed(done: Attempt, folder: Path) -> Path:
    shutil.copytree(done.place.files, folder)
    save_file(done.composed(), folder / "model.safetensors", metadata={"format": "pt"})
    AutoModel.from_pretrained(folder)
    return folder
